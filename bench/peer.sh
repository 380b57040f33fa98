#!/usr/bin/env bash
# Builds the peer that `make bench` measures against: today's llama.cpp, whose
# sources the llama-cpp-python sdist on PyPI carries.
# usage: peer.sh DIR     afterwards DIR/src is the source tree, DIR/build/bin
#                        has the tools and libraries, DIR/venv runs its converter
# Needs Python 3 with venv and pip, cmake and a C++ compiler. AMX stays off:
# with it the peer was seen to crash.
set -euo pipefail
version=0.3.36
dir=$(mkdir -p "$1" && cd "$1" && pwd)
if [ ! -d "$dir/src" ]; then
	python3 -m venv "$dir/venv"
	"$dir/venv/bin/pip" -q download --no-deps --no-binary :all: --no-build-isolation -d "$dir" "llama-cpp-python==$version" ||
		"$dir/venv/bin/pip" -q download --no-deps --no-binary :all: -d "$dir" "llama-cpp-python==$version"
	mkdir "$dir/sdist"
	tar -xzf "$dir"/llama_cpp_python-"$version".tar.gz -C "$dir/sdist" --strip-components=1
	mv "$dir/sdist/vendor/llama.cpp" "$dir/src"
fi
"$dir/venv/bin/pip" -q install numpy torch transformers sentencepiece protobuf safetensors "$dir/src/gguf-py"
cmake -S "$dir/src" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF \
	-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=ON >/dev/null
cmake --build "$dir/build" -j"$(nproc)" --target llama-quantize ggml-base >/dev/null
echo "$dir"
