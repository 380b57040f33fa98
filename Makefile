# make run    plans, converts, inspects and validates the bundled model, refreshes
#             a catalog of two entries of it in out/store, and syncs a node to it
# make test   runs every test
# make ci     what .ci/run does: tests and gates
GO    ?= go
BIN   := bin/modelpipe
MODEL := testdata/stories260K
CALIBRATION := ops/calibrate/testdata/stories.txt

.PHONY: all build run test test-arm64 test-xla test-large bench quality budget ratios race fuzz lint generate ci clean

all: build

# The experiment is for package simd/archsimd, which gomlx multiplies matrices
# with. What it does to SHA-256, and what is done about that: internal/bulkhash.
build:
	GOEXPERIMENT=simd $(GO) build -trimpath -o $(BIN) ./cmd/modelpipe

run: build
	mkdir -p out
	$(BIN) plan $(MODEL)
	$(BIN) convert $(MODEL) -o out/stories260K.gguf
	$(BIN) inspect out/stories260K.gguf
	$(BIN) validate out/stories260K.gguf --against $(MODEL) --chunks 2 --report out/stories260K
	test -f out/keys/stable.pub || $(BIN) catalog keys root online stable -o out/keys
	cp testdata/trust.toml out/trust.toml
	$(BIN) refresh -f testdata/catalog.toml --store out/store --work out/work --trust out/trust.toml \
		--calibrate $(CALIBRATION) --calibrate-chunks 4 --chunks 2 \
		--export out/exports --site out/site --metrics out/refresh.prom --summary out/refresh.json
	$(BIN) catalog verify out/store
	$(BIN) sync --catalog out/store --root out/node

test:
	$(GO) test ./...

# Needs qemu-user-static (Debian, Ubuntu) or an arm64 machine: runs the codecs'
# tests cross-compiled, on the plain codecs and on the NEON ones.
QEMU_ARM64 ?= qemu-aarch64-static
test-arm64:
	@test "$$($(GO) env GOHOSTARCH)" = arm64 || command -v $(QEMU_ARM64) >/dev/null || \
		{ echo "test-arm64: no $(QEMU_ARM64): install qemu-user-static or name another with QEMU_ARM64" >&2; exit 4; }
	GOARCH=arm64 CGO_ENABLED=0 $(GO) test -short -timeout 30m \
		$$(test "$$($(GO) env GOHOSTARCH)" = arm64 || echo -exec $(QEMU_ARM64)) ./quantize

# Needs Python 3 with pip, and cgo on linux/amd64: installs XLA's CPU plugin
# from PyPI under out/large and holds its graphs to the plain definition.
test-xla:
	MODELPIPE_LARGE=1 $(GO) test -timeout 20m -count 1 -run '^TestLargeXLA$$' ./ops

# Needs Python 3 with venv and pip: installs real models, runtimes, servers and
# clients from the registries under out/large and judges our output with them.
# npm's clients, Chromium and the program that MODELPIPE_LLAMA_SERVER names are
# asked too where they are there.
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

# What the presets lose on a real model, beside llama-perplexity's figures.
# QUALITY keeps the model and the tools, QUALITY_TEXT is wikitext-2's raw test
# split, QUALITY_IMATRIX an importance matrix of the model.
QUALITY         ?= out/quality
QUALITY_TEXT    ?= wiki.test.raw
QUALITY_IMATRIX ?=
quality:
	bench/quality.sh $(QUALITY) $(QUALITY_TEXT) "$(QUALITY_IMATRIX)"

# What --max-size loses at the bytes of stock presets, on a text that was not
# calibrated with. BUDGET_CALIBRATION is the text that it chooses by, and
# BUDGET_MODELS are wide, narrow and original (bench/models.sh) or folders.
BUDGET             ?= out/budget
BUDGET_CALIBRATION ?= calibration.txt
BUDGET_MODELS      ?= wide narrow original
budget: build
	IMATRIX="$(QUALITY_IMATRIX)" bench/budget.sh $(BIN) $(QUALITY) $(BUDGET) $(BUDGET_CALIBRATION) $(QUALITY_TEXT) $(BUDGET_MODELS)

# Fails where a fast codec has lost most of its recorded lead over the plain
# one; `bench/ratios.sh --record` records anew.
ratios:
	bench/ratios.sh

# What has goroutines. Left out is what the detector makes slow without another
# goroutine in it: resuming of publish, the sensitivity of validate. checkptr,
# which -race turns on, refuses a pointer that gomlx's loops form past the end
# of a slice and never follow.
race:
	$(GO) test -race -short ./gguf/... ./safetensors/... ./hub/... ./convert/... ./catalog/...
	$(GO) test -race -short -skip '/^resume$$' ./publish
	$(GO) test -race -short ./edge
	$(GO) test -race -short -run 'Local|Lease|Interrupted|Stolen' -gcflags='github.com/gomlx/compute/...=-d=checkptr=0' ./pipeline
	$(GO) test -race -short -run 'TestPieces' ./ops/fromhf
	$(GO) test -race -short -gcflags='github.com/gomlx/compute/...=-d=checkptr=0' ./ops ./ops/calibrate
	$(GO) test -race -short -gcflags='github.com/gomlx/compute/...=-d=checkptr=0' -run 'Report|Runtime|Templates|Structure|Stock' ./validate

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
