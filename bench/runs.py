#!/usr/bin/env python3
"""A whole conversion, side by side: modelpipe in one pass against convert_hf_to_gguf (bf16) and llama-quantize.

usage: runs.py MODELPIPE PEER MODEL [--imatrix F] [--runs N] TYPE...     PEER is the folder that bench/peer.sh made
For each type both programs run in turn, N times, from a warm page cache; prints the medians of the seconds on the wall and of
the processors' seconds, user and system, which other programs disturb less, their ratios, modelpipe's peak resident memory, and
how many tensors have equal bytes (the peer's build may contract products, ours never does).
"""
import argparse, concurrent.futures, hashlib, os, pathlib, statistics, subprocess, sys, tempfile, time


def run(cmd):
    """Wall seconds, processor seconds and peak RSS in MiB of a command that must succeed."""
    at = time.perf_counter()
    p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    err = p.stderr.read()
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        sys.exit(f'{cmd}: status {status}: {err.decode()[-500:]}')
    return time.perf_counter() - at, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def tensors(path):
    from gguf import GGUFReader
    return {t.name: (t.tensor_type.name, hashlib.sha256(t.data.tobytes()).digest()) for t in GGUFReader(path).tensors}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('modelpipe'), a.add_argument('peer', type=pathlib.Path), a.add_argument('model')
    a.add_argument('types', nargs='+'), a.add_argument('--imatrix'), a.add_argument('--runs', type=int, default=3)
    a.add_argument('--scratch', help='folder for the outputs')
    a = a.parse_intermixed_args()
    python = a.peer / 'venv/bin/python'
    imatrix = ['--imatrix', a.imatrix] if a.imatrix else []
    print('| type | upstream: convert + quantize, s | modelpipe, s | ratio | upstream, CPU s | modelpipe, CPU s | ratio '
          '| modelpipe peak RSS, MiB | tensors equal |\n|' + '---|' * 9)
    for name in a.types:
        theirs, ours = [], []
        with tempfile.TemporaryDirectory(dir=a.scratch) as tmp:
            mid, want, got = (os.path.join(tmp, n) for n in ('bf16.gguf', 'peer.gguf', 'ours.gguf'))
            for _ in range(a.runs):
                for f in (mid, want, got):
                    pathlib.Path(f).unlink(missing_ok=True)
                converted = run([python, a.peer / 'src/convert_hf_to_gguf.py', a.model, '--outtype', 'bf16', '--outfile', mid])
                quantized = run([a.peer / 'build/bin/llama-quantize', *imatrix, mid, want, name])
                theirs.append([c + q for c, q in zip(converted, quantized)])
                os.unlink(mid)
                ours.append(run([a.modelpipe, 'convert', a.model, '--type', name, *imatrix, '-o', got]))
            # In another process: what this one maps counts in the peak of those that it starts.
            with concurrent.futures.ProcessPoolExecutor(1) as other:
                one, two = other.map(tensors, (got, want))
            equal = sum(one.get(k) == v for k, v in two.items())
        cells = []
        for i in range(2):
            t, o = (statistics.median(r[i] for r in runs) for runs in (theirs, ours))
            cells.append(f'{t:.1f} | {o:.2f} | {t / o:.1f}x')
        peak = max(r[2] for r in ours)
        print(f'| {name}{" + imatrix" if imatrix else ""} | {" | ".join(cells)} | {peak:.0f} | {equal} of {len(two)} |', flush=True)


main()
