#!/usr/bin/env bash
# Build the virtual environment of a stack, once: requirements/setup.sh onedl|openmmlab FOLDER
# A second call with the same requirements returns at once.
#   PYTHON                  another interpreter
#   MAX_JOBS                compilers at once; all cores by default
#   FORCE_CUDA=1            mmcv's operators for CUDA, on a machine without a GPU
#   GHM_MMDET_PLAIN_BUILD=1 no precompiled header for mmcv, if that ever makes trouble
set -euo pipefail
cd "$(dirname "$0")/.."

stack=${1:-onedl}
venv=${2:-.venv}
python=${PYTHON:-python3}
stamp=$venv/.ghm-ready

case $stack in
    onedl) oldest='3, 10' ;;
    openmmlab) oldest='3, 8' ;;
    *) echo "STACK must be onedl or openmmlab, got '$stack'" >&2; exit 2 ;;
esac
torch=$(grep '^torch==' "requirements/$stack.txt")
mmcv=$(grep 'mmcv==' "requirements/$stack.txt")

# Of pyproject.toml what concerns the package, not the settings of pytest, mypy and ruff after it.
wanted=$(cd requirements && { cat build.txt "$stack.txt" study.txt ./*.sh ../setup.py; sed '/^\[tool.pytest/,$d' ../pyproject.toml; } | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

say() { printf '\n[set-up of %s, %d:%02d min] %s\n' "$venv" $((SECONDS / 60)) $((SECONDS % 60)) "$1"; }

if ! "$python" -c "import sys; sys.exit(sys.version_info < ($oldest))"; then
    echo "Python ${oldest/, /.} or newer is needed; '$python' is $("$python" --version). Name another: make PYTHON=python3.11" >&2
    exit 1
fi
if ! command -v "${CXX:-c++}" >/dev/null; then
    echo "A C++ compiler is needed for mmcv's operators (Debian: apt-get install g++)." >&2
    exit 1
fi

headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -f "$headers/Python.h" ]; then
    echo "Python's headers are needed for mmcv's operators, and $headers has none (Debian: apt-get install python3-dev)." >&2
    exit 1
fi

say "1/4 virtual environment and PyTorch ($torch); meanwhile the others' wheels ($stack)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
venv=$(cd "$venv" && pwd)
# PyTorch's build looks for ninja there: without it, it compiles one file at a time, and heeds no CFLAGS.
export PATH=$venv/bin:$PATH
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
install=("${pip[@]}" install -q --no-compile)  # much of it is never imported
wheels=$venv/wheels
log=$venv/mmcv-build.log
rm -rf "$wheels"
# build.txt once more: without it openmim's dependencies take setuptools back to version 60.
others=(-r requirements/build.txt)
while read -r requirement; do others+=("$requirement"); done < <(grep '==' "requirements/$stack.txt" | grep -v '^torch==\|mmcv==')
"${pip[@]}" wheel -q -w "$wheels" "${others[@]}" &
gathering=$!
"${install[@]}" "$torch" -r requirements/build.txt

tag=$("$venv/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
cached=${mmcv//-/_}
cached=$("${pip[@]}" cache list --format abspath "${cached/==/-}-$tag-" 2>/dev/null || true)

build_mmcv() {
    local flags=
    if [ -z "$cached" ]; then
        flags=$(requirements/precompiled_header.sh "$venv/bin/python" "$venv/header") ||
            echo 'Without a precompiled header, which takes about four times as long'
    fi
    # CFLAGS replaces the flags of Python's own build, so it is left alone where there are none.
    MMCV_WITH_OPS=1 FORCE_CUDA=${FORCE_CUDA:-0} MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        env ${flags:+"CFLAGS=$flags"} \
        "${pip[@]}" wheel --no-deps --no-build-isolation -w "$wheels" "$mmcv"
    rm -rf "$venv/header"
}

build=
if "${pip[@]}" freeze | grep -x "$mmcv" >/dev/null && "$venv/bin/python" -c 'import mmcv.ops' 2>/dev/null; then
    say "2/4 mmcv's operators are there"
else
    say "2/4 $mmcv with its operators, from source unless pip kept the wheel"
    build_mmcv >"$log" 2>&1 &
    build=$!
fi
wait "$gathering"
"${install[@]}" --no-index --find-links "$wheels" "${others[@]}"
if [ "$stack" = onedl ]; then
    "${install[@]}" --no-deps -r requirements/study.txt
fi
"${install[@]}" --no-deps --no-build-isolation -e .

if [ -n "$build" ]; then
    say "3/4 the rest is installed; mmcv's operators take some minutes more"
    last=$SECONDS
    while kill -0 "$build" 2>/dev/null; do
        sleep 1
        if [ $((SECONDS - last)) -ge 60 ]; then last=$SECONDS; say "$(tail -n 1 "$log" | cut -c1-100)"; fi
    done
    wait "$build" || { tail -n 40 "$log"; echo "The build of $mmcv failed; its whole log: $log" >&2; exit 1; }
    "${install[@]}" --no-index --find-links "$wheels" "$mmcv"
fi
# mmcv asks for opencv-python, whose cv2 needs libGL and GLib. The build without windows lies in the
# same folder, and the one that comes last is imported.
opencv=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("opencv-python"))')
"${install[@]}" --no-deps --force-reinstall --find-links "$wheels" "opencv-python-headless==$opencv"
rm -rf "$wheels"
if "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    # Only to fetch torchvision:// backbones; beside a CPU build of torch it fails to import.
    "${install[@]}" torchvision "$torch"
fi

say '4/4 check, and the bytecode of what a training imports'
"${pip[@]}" check
PYTHONDONTWRITEBYTECODE= "$venv/bin/python" -c 'import mmcv.ops, mmdet.apis, mmengine.runner, ghm_mmdet.registry' >/dev/null
echo "$wanted" >"$stamp"
say 'done'
