"""Embeds sentences with a BERT of sentence-transformers' kind (mean pooling, unit length) in float64, straight from the formulas
of Devlin et al. 2018: the reference that a converted embedding model is held to.

usage: bert_reference.py FOLDER < sentences.json > embeddings.json
"""
import json, math, pathlib, sys
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / 'config.json').read_text())
weights = {k.removeprefix('bert.'): v.astype('f8') for k, v in load_file(folder / 'model.safetensors').items()}
tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
tokenizer.no_truncation()
tokenizer.no_padding()
heads, eps = config['num_attention_heads'], config['layer_norm_eps']
erf = np.vectorize(math.erf)


def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weights[name + '.weight'] + weights[name + '.bias']


def linear(x, name):
    return x @ weights[name + '.weight'].T + weights[name + '.bias']


def embed(text):
    ids = tokenizer.encode(text).ids
    e = 'embeddings.'
    x = weights[e + 'word_embeddings.weight'][ids] + weights[e + 'position_embeddings.weight'][: len(ids)] + weights[e + 'token_type_embeddings.weight'][0]
    x = norm(x, e + 'LayerNorm')
    for i in range(config['num_hidden_layers']):
        p = f'encoder.layer.{i}.'
        q, k, v = (linear(x, p + f'attention.self.{n}').reshape(len(ids), heads, -1).swapaxes(0, 1) for n in ('query', 'key', 'value'))
        a = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        a = np.exp(a - a.max(-1, keepdims=True))
        a = (a / a.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        x = norm(x + linear(a, p + 'attention.output.dense'), p + 'attention.output.LayerNorm')
        h = linear(x, p + 'intermediate.dense')
        h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
        x = norm(x + linear(h, p + 'output.dense'), p + 'output.LayerNorm')
    x = x.mean(0)
    return {'tokens': ids, 'embedding': list(x / np.linalg.norm(x))}


json.dump([embed(s) for s in json.load(sys.stdin)], sys.stdout)
