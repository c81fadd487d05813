#!/usr/bin/env bash
# Precompile the header of PyTorch that nearly all of the time of mmcv's build goes into parsing, and
# print the CFLAGS with which GCC reads it: requirements/precompiled_header.sh PYTHON FOLDER
# Fails where it can't be made, or GHM_MMDET_PLAIN_BUILD is set: the build then goes without it.
# A header that GCC can't use costs time alone: the same lines are parsed as text.
set -euo pipefail

python=$1
folder=$2
compiler=${CXX:-c++}

if [ -n "${GHM_MMDET_PLAIN_BUILD:-}" ]; then
    echo 'GHM_MMDET_PLAIN_BUILD is set' >&2
    exit 1
fi
if [[ $(LC_ALL=C "$compiler" --version) != *'Free Software Foundation'* ]]; then
    echo "$compiler is not GCC" >&2
    exit 1
fi

# Header and build must agree in these, in position-independent code, and in mmcv's C++ standard.
flags='-O2 -fwrapv -DNDEBUG -g0'
includes=$("$python" -c "
import sysconfig
from torch.utils.cpp_extension import include_paths
print(*(f'-I{path}' for path in [*include_paths(), sysconfig.get_path('include')]))")
mkdir -p "$folder"
echo '#include <torch/types.h>' >"$folder/mmcv.h"
# shellcheck disable=SC2086
"$compiler" $flags -fPIC -std=c++17 -w $includes -x c++-header "$folder/mmcv.h" -o "$folder/mmcv.h.gch"
echo "$flags -include $folder/mmcv.h -Winvalid-pch"
