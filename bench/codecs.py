#!/usr/bin/env python3
"""Speed of one core, side by side with ggml: each type in turn, both programs on the same kind of data.

usage: codecs.py MODELPIPE LIBGGML_BASE.so [--decode] [--seconds S] [TYPE...]
Prints a Markdown table of MB of float32 per second (best of many short runs) and the ratios: of encoding without and with
importance, or of decoding.
"""
import argparse, ctypes as C, json, random, subprocess, time, array

TYPES = dict(Q4_0=2, Q4_1=3, Q5_0=6, Q5_1=7, Q8_0=8, Q2_K=10, Q3_K=11, Q4_K=12, Q5_K=13, Q6_K=14, IQ2_XXS=16, IQ2_XS=17,
             IQ3_XXS=18, IQ1_S=19, IQ4_NL=20, IQ3_S=21, IQ2_S=22, IQ4_XS=23, IQ1_M=29, TQ1_0=34, TQ2_0=35, MXFP4=39, NVFP4=40,
             Q1_0=41, Q2_0=42)
COLS, ROWS = 4096, 16  # as `modelpipe bench`


class Params(C.Structure):
    _fields_ = [('mem_size', C.c_size_t), ('mem_buffer', C.c_void_p), ('no_alloc', C.c_bool)]


class Traits(C.Structure):
    """The head of ggml_type_traits."""
    _fields_ = [('name', C.c_char_p), ('block', C.c_int64), ('interleave', C.c_int64), ('size', C.c_size_t), ('quantized', C.c_bool),
                ('to_float', C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_int64))]


def peer(library):
    """Returns a function that gives ggml's MB/s of a type, or None where it refuses, for what is 'encode', 'importance' or 'decode'."""
    g = C.CDLL(library, mode=C.RTLD_GLOBAL)
    g.ggml_init.argtypes, g.ggml_init.restype = [Params], C.c_void_p
    g.ggml_init(Params(1 << 16, None, True))  # fills the tables that the encoders read
    g.ggml_row_size.argtypes, g.ggml_row_size.restype = [C.c_int, C.c_int64], C.c_size_t
    g.ggml_quantize_requires_imatrix.argtypes, g.ggml_quantize_requires_imatrix.restype = [C.c_int], C.c_bool
    g.ggml_quantize_chunk.argtypes = [C.c_int, C.c_void_p, C.c_void_p, C.c_int64, C.c_int64, C.c_int64, C.c_void_p]
    g.ggml_quantize_chunk.restype = C.c_size_t
    g.ggml_get_type_traits.argtypes, g.ggml_get_type_traits.restype = [C.c_int], C.POINTER(Traits)
    rng = random.Random(1)
    src = array.array('f', (rng.gauss(0, 0.02) for _ in range(ROWS * COLS)))
    importance = array.array('f', (rng.lognormvariate(0, 1) for _ in range(COLS)))

    back = array.array('f', bytes(4 * ROWS * COLS))

    def speed(name, what, seconds):
        kind = TYPES[name]
        needed = g.ggml_quantize_requires_imatrix(kind)
        if needed and what == 'encode':
            return None
        dst = (C.c_uint8 * (ROWS * g.ggml_row_size(kind, COLS)))()
        weights = importance.buffer_info()[0] if what == 'importance' or needed else None
        rows, blocks, size = src.buffer_info()[0], C.addressof(dst), g.ggml_row_size(kind, COLS)
        to_float, values = g.ggml_get_type_traits(kind).contents.to_float, back.buffer_info()[0]

        def encode(row, n):
            g.ggml_quantize_chunk(kind, rows, blocks, row * COLS, n, COLS, weights)

        def decode(row, n):
            to_float(blocks + row * size, values + 4 * row * COLS, n * COLS)

        def seconds_of(row, n):
            at = time.perf_counter()
            (decode if what == 'decode' else encode)(row, n)
            return time.perf_counter() - at

        encode(0, ROWS)  # warms up
        # Runs longer than some milliseconds other programs would interrupt: of slow types each few rows are timed on their own.
        whole = min(seconds_of(0, ROWS) for _ in range(3))
        n = next(n for n in (ROWS, 8, 4, 2, 1) if n == 1 or whole * n / ROWS < 0.002)
        best, start = [float('inf')] * (ROWS // n), time.monotonic()
        while time.monotonic() - start < seconds:
            for i in range(len(best)):
                best[i] = min(best[i], seconds_of(i * n, n))
        return 4 * ROWS * COLS / 1e6 / sum(best)
    return speed


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('modelpipe'), a.add_argument('library'), a.add_argument('types', nargs='*')
    a.add_argument('--seconds', type=float, default=0.5), a.add_argument('--decode', action='store_true')
    a = a.parse_intermixed_args()
    ggml = peer(a.library)
    if a.decode:
        columns = {'decode': 'ggml | modelpipe | ratio'}
    else:
        columns = {'encode': 'ggml | modelpipe | ratio', 'importance': 'ggml, imatrix | modelpipe, imatrix | ratio'}
    print('| type | ' + ' | '.join(columns.values()) + ' |\n|---|' + '---|---|---|' * len(columns))
    for name in a.types or TYPES:
        run = subprocess.run([a.modelpipe, 'bench', '--json', '--seconds', str(a.seconds), name], capture_output=True, text=True, check=True)
        ours = json.loads(run.stdout)[0]
        cells = []
        for key in columns:
            mine, theirs = ours[key]['fast'], ggml(name, key, a.seconds)
            cells += [f'{theirs:.4g}', f'{mine:.4g}', f'{mine / theirs:.1f}x'] if mine and theirs else ['-'] * 3
        print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)


main()
