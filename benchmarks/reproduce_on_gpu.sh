#!/usr/bin/env bash
# The paper's figures and tables on a machine that has a GPU for a quarter of an hour and reaches no package registry.
#
#   python -m benchmarks.gpu.bring FOLDER --data DIR [ARCHIVE]    before, elsewhere: what to bring (benchmarks/gpu/README.md)
#   benchmarks/reproduce_on_gpu.sh FOLDER                         there: build, doctor, tests, reproduce --all --minutes 7
#   benchmarks/reproduce_on_gpu.sh FOLDER --device cpu --fast     anywhere: does it run? in a minute, cut short
#
# Everything comes back in $OUT (runs/gpu): the output of each stage, and reports/all/README.md. Run it again, with STAGES=reproduce
# if the rest is known, and it goes on where it was stopped. PYTHON is the interpreter, python3 by default.
set -euo pipefail

folder="${1:-}"
[[ -d "$folder/data" ]] || { echo "error: there is no folder data in '$folder'; fill it with python -m benchmarks.gpu.bring" >&2; exit 2; }
shift
folder="$(realpath "$folder")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"

"$python" -c 'import torch' 2>/dev/null || { echo "error: $python has no torch; name another interpreter by PYTHON" >&2; exit 2; }
if [[ " $* " != *" --device cpu "* ]]; then
    nvidia-smi -L 2>/dev/null || { echo "error: nvidia-smi finds no GPU; --device cpu --fast tries everything out without" >&2; exit 2; }
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "error: the torch of $python is built without CUDA, or finds no driver" >&2; exit 2; }
fi

read -ra stages <<<"${STAGES:-build doctor tests reproduce}"
exec "$python" -m benchmarks.gpu "${stages[@]}" --brought "$folder" --out "${OUT:-runs/gpu}" "$@"
