#!/usr/bin/env python3
"""Times a reference and a candidate over the same text: modelpipe validate in one pass against llama-perplexity's two runs.

usage: evaluate.py MODELPIPE LLAMA-PERPLEXITY TOKENIZER TEXT DIR [--chunks 8] [--rounds 1] [--threads N] [DEVICE ...]
The model has TinyLlama's form (1.1B) and random weights, and is made in DIR where it is not there; TOKENIZER is a folder with
a tokenizer.json of at most 32064 tokens. The reference is in bf16, the candidate in Q4_K_M, and each DEVICE (default: cpu)
takes its turn with llama-perplexity, which computes with an f32 cache. Needs numpy. Prints wall and CPU seconds (user and
system), and the ratios to llama-perplexity's. Its threads spin while they wait for one another, so that on a busy machine
CPU seconds say something with --threads 1 only.
"""
import argparse, json, os, pathlib, resource, shutil, struct, subprocess, time
import numpy as np

VOCAB, WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 32064, 2048, 5632, 32, 4, 22


def make(folder, tokenizer):
    """A Llama with random bf16 weights."""
    folder.mkdir(parents=True)
    for f in pathlib.Path(tokenizer).glob('tokenizer*.json'):
        shutil.copy(f, folder / f.name)
    (folder / 'config.json').write_text(json.dumps({
        'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'hidden_size': WIDTH, 'intermediate_size': INNER, 'vocab_size': VOCAB,
        'num_attention_heads': HEADS, 'num_key_value_heads': KV_HEADS, 'num_hidden_layers': LAYERS, 'rms_norm_eps': 1e-5, 'rope_theta': 10000.0,
        'max_position_embeddings': 2048, 'hidden_act': 'silu', 'tie_word_embeddings': False, 'torch_dtype': 'bfloat16'}))
    kv = WIDTH // HEADS * KV_HEADS
    tensors = {'model.embed_tokens.weight': (VOCAB, WIDTH), 'model.norm.weight': (WIDTH,), 'lm_head.weight': (VOCAB, WIDTH)}
    for i in range(LAYERS):
        p = f'model.layers.{i}.'
        tensors |= {p + 'input_layernorm.weight': (WIDTH,), p + 'post_attention_layernorm.weight': (WIDTH,)}
        tensors |= {p + f'self_attn.{n}_proj.weight': (rows, WIDTH) for n, rows in (('q', WIDTH), ('k', kv), ('v', kv), ('o', WIDTH))}
        tensors |= {p + 'mlp.gate_proj.weight': (INNER, WIDTH), p + 'mlp.up_proj.weight': (INNER, WIDTH), p + 'mlp.down_proj.weight': (WIDTH, INNER)}
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b' ' * (-len(head) % 8)
    rng = np.random.default_rng(1)
    with open(folder / 'model.safetensors', 'wb') as f:
        f.write(struct.pack('<Q', len(head)) + head)
        for shape in tensors.values():
            x = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
            f.write((x.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def timed(*command):
    """Wall and CPU seconds of a command."""
    before, at = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.time() - at, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('modelpipe', 'perplexity', 'tokenizer', 'text', 'dir'):
        p.add_argument(name)
    p.add_argument('devices', nargs='*'), p.add_argument('--chunks', type=int, default=8), p.add_argument('--rounds', type=int, default=1)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    a = p.parse_intermixed_args()
    work = pathlib.Path(a.dir)
    model, reference, candidate, logits = work / 'model', work / 'bf16.gguf', work / 'Q4_K_M.gguf', work / 'logits'
    if not model.exists():
        make(model, a.tokenizer)
    for out, preset in ((reference, 'bf16'), (candidate, 'Q4_K_M')):
        if not out.exists():
            subprocess.run([a.modelpipe, 'convert', model, '--type', preset, '-o', out], check=True, stdout=subprocess.DEVNULL)
    os.environ['GOMAXPROCS'] = str(a.threads)
    peer = [a.perplexity, '-c', 512, '--chunks', a.chunks, '-t', a.threads, '-fa', 'off', '-ctk', 'f32', '-ctv', 'f32', '--kl-divergence-base', logits]
    print(f'{a.threads} threads, {a.chunks} chunks of 512 tokens\n| | wall, s | CPU, s | ratio of wall | ratio of CPU |\n|---|---|---|---|---|')
    for _ in range(a.rounds):
        for device in a.devices or ['cpu']:
            base = timed(*peer, '-m', reference, '-f', a.text)
            both = base + timed(*peer, '-m', candidate, '--kl-divergence')
            ours = timed(a.modelpipe, 'validate', candidate, '--against', model, '--text', a.text, '--chunks', a.chunks, '--device', device,
                         '--skip', 'tokens,template,weights,canaries', '--max-kld', 1000)
            print(f'| llama-perplexity | {both[0]:.1f} | {both[1]:.1f} | 1 | 1 |')
            print(f'| {device} | {ours[0]:.1f} | {ours[1]:.1f} | {ours[0] / both[0]:.2f} | {ours[1] / both[1]:.2f} |', flush=True)
    logits.unlink()


if __name__ == '__main__':
    main()
