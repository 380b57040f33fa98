#!/usr/bin/env bash
# Runs every fuzz target for a few seconds.
# usage: fuzzsmoke.sh [SECONDS=4]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-4}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The sources are asked for the targets: go test -list would link every package.
grep -ro --include='*_test.go' --exclude-dir=testdata '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do
	package=$(dirname "$file") target=${func#func }
	echo "fuzz $package $target"
	# An input of new coverage is not worth a minute of making it smaller.
	if ! go test -vet=off -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 10x "$package" >"$log" 2>&1; then
		cat "$log"
		# Now and then go test takes the end of its own time for a failure. A
		# real one names the input that failed.
		grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic|DATA RACE|_test\.go:' "$log" || exit 1
		echo "the time was over"
	else
		tail -n 1 "$log"
	fi
done
