"""Runs llama.cpp's HTTP server on loopback for a model until standard input ends. Prints its address on a line of its own."""
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel = 512, 1
params.hostnames = ["127.0.0.1"]
params.port, params.warmup = 0, False
server = xllamacpp.Server(params)
print("\naddress " + server.listening_address, flush=True)
sys.stdin.read()
