#!/usr/bin/env bash
# Measures what --max-size loses beside stock presets of the same bytes.
# usage: budget.sh MODELPIPE DIR OUT CALIBRATION TEXT [MODEL ...]
#        DIR keeps the models (models.sh), OUT/MODEL the measurements, which are
#        not repeated. CALIBRATION is the text that is calibrated with and that
#        losses are measured on, TEXT is the one that is judged on. MODEL is
#        wide, narrow, original or a folder; the first three where none is named
# IMATRIX, where it is set, is the importance matrix of the only MODEL; otherwise
# it is made from 60 chunks of CALIBRATION. DEVICE says where it is computed. A
# model is some 40 TFLOP.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
modelpipe=$1 dir=$2 out=$3 calibration=$4 text=$5
shift 5
if [ $# = 0 ]; then
	set -- wide narrow original
fi
for model; do
	folder=$model
	if [ ! -f "$model/config.json" ]; then
		folder=$("$here/bench/models.sh" "$dir" "$model")
	fi
	to=$out/$(basename "$model")
	mkdir -p "$to"
	imatrix=${IMATRIX:-$to/imatrix.gguf}
	if [ ! -f "$imatrix" ]; then
		"$modelpipe" calibrate "$folder" --text "$calibration" --chunks 60 -o "$imatrix" --device "${DEVICE:-auto}"
	fi
	echo "$model"
	python3 "$here/bench/budget.py" "$modelpipe" "$folder" --calibration "$calibration" --text "$text" \
		--imatrix "$imatrix" --out "$to" --device "${DEVICE:-auto}"
done
