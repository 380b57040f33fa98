#!/usr/bin/env bash
# Times every codec's fast functions against the plain ones in one run, shows
# them with benchstat, and fails where less than 0.2 of a recorded ratio is left.
# usage: ratios.sh [--record]     --record rewrites bench/baseline.csv
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
go test -run '^$' -bench 'Encode|Decode' -benchtime 20ms -count 3 -timeout 20m ./quantize >"$out"
go tool -modfile=tools/go.mod benchstat -filter '.unit:sec/op' -col '/codec@(plain avx2 avx512)' "$out" | grep -v '^[¹²³⁴]'
python3 bench/ratios.py "$out" bench/baseline.csv "$@"
