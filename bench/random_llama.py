#!/usr/bin/env python3
"""Makes a model to time whole runs with: TinyLlama's shapes (1.1B weights, 201 tensors) filled with random bf16, and importances for it.

usage: random_llama.py TOKENIZER OUT     (needs numpy)
TOKENIZER is the folder with the tokenizer's files, gzipped (tokenizer/testdata/real/phi-3-mini). OUT gets a Hugging Face folder
and OUT.imatrix.gguf an importance matrix as llama-imatrix writes it. The weights are normally distributed with a deviation of
0.02, the importances log-normally; all come from numpy's default generator from seed 1, so that the files are always the same.
"""
import gzip, json, pathlib, struct, sys

import numpy as np

HIDDEN, FFN, LAYERS, HEADS, KV, VOCABULARY = 2048, 5632, 22, 32, 4, 32064

# Of each matrix of a layer its rows, its columns, and what ggml calls it.
MATRICES = {
    'self_attn.q_proj': (HIDDEN, HIDDEN, 'attn_q'), 'self_attn.k_proj': (HIDDEN * KV // HEADS, HIDDEN, 'attn_k'),
    'self_attn.v_proj': (HIDDEN * KV // HEADS, HIDDEN, 'attn_v'), 'self_attn.o_proj': (HIDDEN, HIDDEN, 'attn_output'),
    'mlp.gate_proj': (FFN, HIDDEN, 'ffn_gate'), 'mlp.up_proj': (FFN, HIDDEN, 'ffn_up'), 'mlp.down_proj': (HIDDEN, FFN, 'ffn_down'),
}


def shapes():
    """Of each tensor its name, its shape, and ggml's name for it."""
    yield 'model.embed_tokens.weight', (VOCABULARY, HIDDEN), 'token_embd.weight'
    for i in range(LAYERS):
        for name, (rows, cols, ggml) in MATRICES.items():
            yield f'model.layers.{i}.{name}.weight', (rows, cols), f'blk.{i}.{ggml}.weight'
        for name, ggml in (('input_layernorm', 'attn_norm'), ('post_attention_layernorm', 'ffn_norm')):
            yield f'model.layers.{i}.{name}.weight', (HIDDEN,), f'blk.{i}.{ggml}.weight'
    yield 'model.norm.weight', (HIDDEN,), 'output_norm.weight'
    yield 'lm_head.weight', (VOCABULARY, HIDDEN), 'output.weight'


def bf16(w):
    """Rounded to the nearest, ties to even."""
    bits = w.view('u4')
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype('u2')


def write_model(out, rng):
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name, shape, _ in shapes():
        size = 2 * int(np.prod(shape))
        header[name] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [end, end + size]}
        end += size
    head = json.dumps(header, separators=(',', ':')).encode()
    head += b' ' * (-len(head) % 8)
    with open(out / 'model.safetensors', 'wb') as f:
        f.write(struct.pack('<Q', len(head)) + head)
        for _, shape, _ in shapes():
            w = rng.standard_normal(int(np.prod(shape)), dtype='f4') * np.float32(0.02)
            f.write(bf16(w + np.float32(len(shape) == 1)).tobytes())  # the weights of norms are about 1
    (out / 'config.json').write_text(json.dumps(dict(
        architectures=['LlamaForCausalLM'], model_type='llama', hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=HIDDEN // HEADS, vocab_size=VOCABULARY, tie_word_embeddings=False,
        rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=2048, hidden_act='silu', torch_dtype='bfloat16',
        bos_token_id=1, eos_token_id=2), indent=1))


def write_imatrix(path, rng):
    """Sums of squares over 100 chunks of 512 tokens; the embedding, which is not multiplied with, has none."""
    def string(s):
        return struct.pack('<Q', len(s)) + s.encode()

    tensors = []
    for _, shape, name in sorted(shapes(), key=lambda t: t[2]):
        if len(shape) == 2 and name != 'token_embd.weight':
            tensors.append((name + '.in_sum2', (rng.lognormal(0, 1, shape[1]) * 51200).astype('f4')))
            tensors.append((name + '.counts', np.array([51200], 'f4')))
    u32, text, array = 4, 8, 9
    keys = (string('general.type') + struct.pack('<I', text) + string('imatrix')
            + string('imatrix.datasets') + struct.pack('<IIQ', array, text, 1) + string('random')
            + string('imatrix.chunk_count') + struct.pack('<II', u32, 100)
            + string('imatrix.chunk_size') + struct.pack('<II', u32, 512))
    infos, data = b'', b''
    for name, values in tensors:
        infos += string(name) + struct.pack('<IQIQ', 1, len(values), 0, len(data))
        data += values.tobytes()
        data += b'\0' * (-len(data) % 32)
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), 4) + keys + infos
    path.write_bytes(head + b'\0' * (-len(head) % 32) + data)


def main(tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    write_model(out, rng)
    write_imatrix(out.with_name(out.name + '.imatrix.gguf'), rng)
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        (out / name).write_bytes(gzip.decompress((tokenizer / f'{name}.gz').read_bytes()))


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
