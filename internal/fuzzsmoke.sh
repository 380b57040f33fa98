#!/usr/bin/env bash
# Runs every fuzz target for a few seconds.
# usage: fuzzsmoke.sh [SECONDS=4]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-4}
go list ./... | while read -r package; do
	{ go test -list '^Fuzz' "$package" | grep '^Fuzz' || true; } | while read -r target; do
		echo "fuzz $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" "$package"
	done
done
