#!/usr/bin/env bash
# Measures what the presets lose on SmolLM2-wide, and fails where a mean KLD is
# more than 3 % from what llama-perplexity has measured (bench/quality.csv).
# usage: quality.sh DIR TEXT [IMATRIX [PRESET[+] ...]]
#        DIR keeps the model and the tools, TEXT is wikitext-2's raw test split,
#        IMATRIX llama-imatrix's file of the model ("" for none), PRESET+ a
#        preset with it; all rows of the table where none is named
# Needs Go, and Python 3 with venv and pip. DEVICE says where it is computed; the
# source and each row are some 5 TFLOP.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mkdir -p "$1" && cd "$1" && pwd)
text=$2
imatrix=${3:-}
shift $(($# < 3 ? $# : 3))
"$here/bench/models.sh" "$dir" wide >/dev/null
(cd "$here" && GOEXPERIMENT=simd go build -trimpath -o "$dir/quality" ./bench/quality)
exec "$dir/quality" ${imatrix:+--imatrix "$imatrix"} --device "${DEVICE:-auto}" "$dir/wide" "$text" "$here/bench/quality.csv" "$@"
