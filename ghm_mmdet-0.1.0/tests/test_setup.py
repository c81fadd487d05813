"""What requirements/setup.sh installs, and the precompiled header with which it compiles mmcv."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILER = os.environ.get('CXX', 'c++')
GCC = 'echo "g++ 12.2.0, Copyright Free Software Foundation, Inc."'
#: Makes the file behind -o, and keeps its arguments.
COMPILES = 'echo "$@" >"$0.arguments"; while [ "$1" != -o ]; do shift; done; : >"$2"'


def precompile(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['requirements/precompiled_header.sh', sys.executable, folder / 'header'],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip


def compiler(folder: Path, version: str, compiles: str) -> str:
    """One that answers `--version`, and does what it is told to for all else."""
    path = folder / 'c++'
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; else {compiles}; fi\n',
        encoding='utf-8',
    )
    path.chmod(0o755)
    return str(path)


def test_header_is_compiled_as_the_build_will_be(tmp_path: Path) -> None:
    done = precompile(tmp_path, CXX=compiler(tmp_path, GCC, COMPILES))
    assert done.returncode == 0, done.stderr
    header = tmp_path / 'header/mmcv.h'
    assert header.read_text(encoding='utf-8') == '#include <torch/types.h>\n'
    assert Path(f'{header}.gch').exists()
    flags, include = done.stdout.split(' -include ')
    assert include.split()[0] == str(header)
    arguments = (tmp_path / 'c++.arguments').read_text(encoding='utf-8')
    assert arguments.startswith(f'{flags} -fPIC -std=c++17 ')
    assert '/torch/include' in arguments


@pytest.mark.parametrize(
    ('version', 'compiles', 'environment', 'reason'),
    [
        ('echo clang version 19', COMPILES, {}, 'is not GCC'),
        (GCC, 'echo no space left >&2; exit 1', {}, 'no space left'),
        (GCC, COMPILES, {'GHM_MMDET_PLAIN_BUILD': '1'}, 'GHM_MMDET_PLAIN_BUILD is set'),
    ],
)
def test_build_goes_without_a_header(
    tmp_path: Path, version: str, compiles: str, environment: dict[str, str], reason: str
) -> None:
    done = precompile(tmp_path, CXX=compiler(tmp_path, version, compiles), **environment)
    assert done.returncode != 0
    assert done.stdout == ''
    assert reason in done.stderr


@pytest.mark.slow
def test_compiler_reads_the_header(tmp_path: Path) -> None:
    if 'Free Software' not in subprocess.getoutput(f'{COMPILER} --version'):
        pytest.skip('needs GCC')
    done = precompile(tmp_path)
    assert done.returncode == 0, done.stderr
    source = tmp_path / 'operator.cpp'
    source.write_text('at::Tensor f(at::Tensor x) { return x + 1; }\n', encoding='utf-8')
    # Without the folders to include from, the header can't be read as text instead.
    build = [COMPILER, *done.stdout.split(), '-Werror', '-fPIC', '-std=c++17']
    compiled = subprocess.run(
        [*build, '-H', '-c', source, '-o', tmp_path / 'operator.o'], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    assert f'! {tmp_path}/header/mmcv.h.gch' in compiled.stderr


def test_missing_headers_of_python_are_named_before_anything_is_installed(tmp_path: Path) -> None:
    """As on Debian without python3-dev, where mmcv's build would fail after minutes."""
    python = tmp_path / 'python'
    headless = f'case "$2" in *sysconfig*) echo {tmp_path};; *) exec {sys.executable} "$@";; esac'
    python.write_text(f'#!/bin/sh\n{headless}\n', encoding='utf-8')
    python.chmod(0o755)
    done = subprocess.run(
        ['requirements/setup.sh', 'openmmlab', tmp_path / 'venv'], cwd=ROOT,
        env={**os.environ, 'PYTHON': str(python)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'apt-get install python3-dev' in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_mmcv_is_built_with_the_ninja_of_the_environment(tmp_path: Path) -> None:
    """Where the system has none, the build would take several times as long."""
    (tmp_path / 'bin').mkdir()
    python, ninja = tmp_path / 'bin/python', tmp_path / 'bin/ninja'
    # Takes note of the ninja that the build of mmcv finds, and does nothing else.
    note = f'case "$*" in *no-build-isolation*mmcv==*) command -v ninja >{tmp_path}/found;; esac'
    for program, does in (python, note), (ninja, ''):
        program.write_text(f'#!/bin/sh\n{does}\n', encoding='utf-8')
        program.chmod(0o755)
    done = subprocess.run(
        ['requirements/setup.sh', 'openmmlab', tmp_path], cwd=ROOT,
        env={**os.environ, 'PYTHON': sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / 'found').read_text(encoding='utf-8') == f'{ninja}\n'


def test_opencv_needs_no_library_of_a_desktop() -> None:
    """Else no training starts in a container without libGL and GLib."""
    opencv = find_spec('cv2')
    libraries = [*Path(opencv.submodule_search_locations[0]).glob('*.so')]
    assert len(libraries) == 1
    # With those that they need in turn: it is the wheel's Qt that asks for a desktop's.
    needed = subprocess.run(['ldd', *libraries], capture_output=True, text=True, check=True).stdout
    assert 'libc.so.6' in needed
    assert re.findall(r'lib(?:GL|Qt|gthread|glib)\S*', needed) == []
    assert version('opencv-python-headless') == version('opencv-python')
