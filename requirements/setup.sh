#!/usr/bin/env bash
# Build the virtual environment of a stack, once: requirements/setup.sh onedl|openmmlab FOLDER
# A second call with the same requirements returns at once. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

stack=${1:-onedl}
venv=${2:-.venv}
python=${PYTHON:-python3}
stamp=$venv/.ghm-ready

case $stack in
    onedl) mmcv=$(grep '^onedl-mmcv==' requirements/onedl.txt) ;;
    openmmlab) mmcv=$(grep '^mmcv==' requirements/openmmlab.txt) ;;
    *) echo "STACK must be onedl or openmmlab, got '$stack'" >&2; exit 2 ;;
esac

wanted=$(cd requirements && cat torch.txt build.txt "$stack.txt" test.txt setup.sh ../setup.py ../ghm_mmdet.pth | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

say() { printf '\n[set-up of %s] %s\n' "$venv" "$1"; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "Python 3.10 or newer is needed; '$python' is $("$python" --version). Name another: make PYTHON=python3.11" >&2
    exit 1
fi
if ! command -v "${CXX:-c++}" >/dev/null; then
    echo "A C++ compiler is needed for mmcv's operators (Debian: apt-get install g++)." >&2
    exit 1
fi

say "1/4 virtual environment and PyTorch ($(cat requirements/torch.txt))"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -q -r requirements/torch.txt -r requirements/build.txt

if "$venv/bin/python" -c 'import mmcv.ops' 2>/dev/null; then
    say "2/4 mmcv's operators are there"
else
    say "2/4 $mmcv with its operators: compiled from source, about 10 minutes on 2 cores, once; pip keeps the wheel"
    log=$venv/mmcv-build.log
    MMCV_WITH_OPS=1 FORCE_CUDA=${FORCE_CUDA:-0} MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        "${pip[@]}" install --no-build-isolation "$mmcv" >"$log" 2>&1 &
    build=$!
    SECONDS=0
    while kill -0 "$build" 2>/dev/null; do
        sleep 5
        if [ $((SECONDS % 60)) -lt 5 ]; then echo "    $((SECONDS / 60)) min: $(tail -n 1 "$log" | cut -c1-100)"; fi
    done
    wait "$build" || { tail -n 40 "$log"; echo "The build of $mmcv failed; its whole log: $log" >&2; exit 1; }
fi

say "3/4 MMEngine, MMDetection, MIM and the test tools ($stack)"
# build.txt once more: without it openmim's dependencies take setuptools back to version 60.
"${pip[@]}" install -q -r requirements/build.txt -r "requirements/$stack.txt" -r requirements/test.txt
if "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    # Only to fetch torchvision:// backbones; beside a CPU build of torch it fails to import.
    "${pip[@]}" install -q torchvision -r requirements/torch.txt
fi

say '4/4 ghm_mmdet itself, editable'
"${pip[@]}" install -q --no-deps --no-build-isolation -e .
cp ghm_mmdet.pth "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

"${pip[@]}" check
"$venv/bin/python" -c 'import mmcv.ops, mmdet, mmengine, ghm_mmdet.registry'
echo "$wanted" >"$stamp"
say 'done'
