#!/usr/bin/env python3
"""Writes the expected ids next to this file, by the libraries themselves.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 gguf
    python3 make.py

Each line of corpus.jsonl is a text. NAME.ids.gz has one line of ids for each,
special tokens added (SentencePiece models: without any).
"""
import gzip
import json
import pathlib
import tempfile

import sentencepiece
import tokenizers

here = pathlib.Path(__file__).parent
texts = [json.loads(line) for line in (here / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


def write(name, ids):
    data = "".join(" ".join(map(str, row)) + "\n" for row in ids)
    (here / f"{name}.ids.gz").write_bytes(gzip.compress(data.encode(), 9, mtime=0))


def encode(tokenizer):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [tokenizer.encode(text).ids for text in texts]


seen = {}
for path in sorted(here.glob("../golden/*/tokenizer.json")):
    data = path.read_bytes()
    if data not in seen.values():
        seen[path.parent.name] = data
        write(path.parent.name, encode(tokenizers.Tokenizer.from_buffer(data)))
for path in sorted(here.glob("../real/*/tokenizer.json.gz")):
    data = gzip.decompress(path.read_bytes())
    write(path.parent.name, encode(tokenizers.Tokenizer.from_buffer(data)))

with tempfile.TemporaryDirectory() as tmp:
    for name in ["vocab.json", "merges.txt"]:
        (pathlib.Path(tmp) / name).write_bytes(gzip.decompress((here / f"../real/gpt2-files/{name}.gz").read_bytes()))
    gpt2 = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(f"{tmp}/vocab.json", f"{tmp}/merges.txt"))
gpt2.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
gpt2.add_special_tokens(["<|endoftext|>"])
write("gpt2-files", encode(gpt2))

model = gzip.decompress((here / "../real/mistral-v3/tokenizer.model.gz").read_bytes())
processor = sentencepiece.SentencePieceProcessor(model_proto=model)
write("mistral-v3", [processor.encode(text) for text in texts])
