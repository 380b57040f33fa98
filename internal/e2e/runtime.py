"""Asks llama.cpp's server about a model: the runtime that users have, from PyPI's xllamacpp, on a loopback port.

usage: runtime.py MODEL.gguf [--embedding] < requests.json > answers.json
A request is [path, body] of the server's HTTP API, such as ["/tokenize", {"content": "a"}]; the answers come in the same order.
"""
import json, sys, urllib.request
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_batch, params.n_ubatch, params.n_parallel = 512, 512, 512, 1
params.cpuparams.n_threads = 2
params.hostnames = ['127.0.0.1']
params.port = 0
params.warmup = False
params.verbosity = 0
if '--embedding' in sys.argv:
    params.embedding = True
server = xllamacpp.Server(params)


def ask(path, body):
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), {'Content-Type': 'application/json'})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


json.dump([ask(path, body) for path, body in json.load(sys.stdin)], sys.stdout)
sys.stdout.flush()
