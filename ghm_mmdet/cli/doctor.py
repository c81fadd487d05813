"""What is installed, which code computes the losses, and what is missing.

Exit status: 0 if a training can start, else 1.

Examples:
    ghm-mmdet doctor
"""

from __future__ import annotations

import inspect
import io
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .. import __version__
from ..stacks import STACKS, distribution_name, distributions, installed_version

#: mmcv leaves its operators out silently where a build tool is missing.
BUILD_MMCV = (
    "pip install 'setuptools<81' wheel ninja psutil && "
    'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir'
)
PACKAGE_RESOURCES = 'setuptools 81 and later lack pkg_resources: pip install "setuptools<81"'


@dataclass
class Finding:
    """A line of the report: what was looked at, what was found, and what to do."""

    name: str
    found: str
    advice: str | None = None  # None if all is well
    stops: bool = False  # whether no training can start

    def __str__(self) -> str:
        advice = f'\n{"!!" if self.stops else " !":<4}{self.advice}' if self.advice else ''
        return f'{self.name:<12}{self.found}{advice}'


def add_options(_: ArgumentParser) -> None:
    """None."""


def run(_: Namespace) -> None:
    # Packages print warnings and remarks while they are imported.
    noise = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
        warnings.simplefilter('ignore')
        findings = examine()
    stopping = sum(finding.stops for finding in findings)
    verdict = f'No training can start: {stopping} to mend, marked !!'
    print(*findings, '', verdict if stopping else 'A training can start.', sep='\n')
    sys.exit(stopping > 0)


def examine() -> list[Finding]:
    """All findings. What rests on a package that is missing or broken is not examined."""
    # The default stack where there is none.
    stack = 'openmmlab' if distributions('mmdet') == ['mmdet'] else 'onedl'
    torch = _module('torch', 'pip install torch')
    findings = [
        Finding('ghm_mmdet', f'{__version__}, {Path(__file__).parents[1]}'),
        Finding('python', f'{sys.version.split()[0]}, {sys.executable}'),
        torch,
        *(_package(module, stack) for module in STACKS[stack]),
        _stack(stack),
    ]
    if torch.advice is None:
        findings.append(_guarded('kernels', _kernels))
    return findings


def _guarded(name: str, examination: Callable[[], Finding]) -> Finding:
    """The finding; an examination that fails is one, too."""
    try:
        return examination()
    except (Exception, SystemExit) as error:
        return Finding(name, _line(error), 'this check failed itself; a training may start or not')


def failure(attempt: Callable[[], object]) -> str | None:
    """The error of an attempt in one line, or None if it succeeds."""
    try:
        attempt()
    except (Exception, SystemExit) as error:  # SystemExit: from a package that is imported
        return _line(error)
    return None


def _line(error: BaseException) -> str:
    return ': '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _module(name: str, install: str, stops: bool = True) -> Finding:
    """A module that must import."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return Finding(name, 'missing', install, stops)
    error = failure(lambda: import_module(name))
    if error is None:
        return Finding(name, getattr(sys.modules[name], '__version__', spec.origin))
    again = f'it is installed, but its import fails; install it again: {install}'
    return Finding(name, error, PACKAGE_RESOURCES if 'pkg_resources' in error else again, stops)


def _package(module: str, stack: str) -> Finding:
    """One of mmcv, mmengine, mmdet and mim."""
    requirement, installed = STACKS[stack][module], distributions(module)
    names = ', '.join(f'{name} {installed_version(name)}' for name in installed)
    uninstall = f'pip uninstall -y {" ".join(installed)}'
    if len(installed) > 1:
        advice = f'they overwrite one another: {uninstall} && pip install {requirement}'
        return Finding(module, names, advice, stops=True)
    install = f'pip install {requirement}'
    if module == 'mmcv':
        prebuilt = f'prebuilt, where there is a wheel for this torch: mim install {requirement}'
        install = f'{prebuilt}; from source: {BUILD_MMCV} {requirement}'
    # MMDetection's own tools/train.py trains without MIM.
    finding = _module(module, install, stops=module != 'mim')
    if finding.advice is not None:
        return finding
    finding.found = names or f'{finding.found}, of no known distribution'
    if module == 'mmcv':
        error = failure(lambda: import_module('mmcv.ops'))
        finding.found += f', without compiled operators ({error})' if error else ''
        finding.advice = f'{uninstall}, then {install}' if error else None
    elif module == 'mmengine' and find_spec('pkg_resources') is None:
        # Version 0.10.7 imports it at run time, to look packages up.
        source = inspect.getsource(import_module('mmengine.utils.package_utils'))
        finding.advice = PACKAGE_RESOURCES if 'pkg_resources' in source else None
    finding.stops = finding.advice is not None
    return finding


def _stack(stack: str) -> Finding:
    if not distributions('mmdet'):
        return Finding('stack', 'none: MMDetection is not installed')
    installed = [name for module in STACKS[stack] for name in distributions(module)]
    mine = {distribution_name(requirement) for requirement in STACKS[stack].values()}
    others = [name for name in installed if name not in mine and not name.endswith('-lite')]
    if others:
        advice = f'not tested; for {stack} alone: pip install {" ".join(STACKS[stack].values())}'
        return Finding('stack', f'{stack}, mixed with {", ".join(others)}', advice)
    mmdet = distribution_name(STACKS[stack]['mmdet'])
    return Finding('stack', f'{stack}; with MIM: mim train {mmdet} CONFIG')


def _kernels() -> Finding:
    """Compute a loss, and say with what."""
    import torch

    from ..formulas import Settings
    from ..functional import ghm_c_loss
    from ..ops import choose_kernels
    from ..ops.trial import VARIABLE

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    forced = f' ({VARIABLE}={os.environ[VARIABLE]})' if os.environ.get(VARIABLE) else ''
    pred, labels = torch.zeros(4, 2, device=device), torch.tensor([0, 1, 2, 2], device=device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if error := failure(lambda: ghm_c_loss(pred, labels).item()):
            advice = f'unset {VARIABLE}' if forced else f'{VARIABLE}=torch in the environment'
            return Finding('kernels', error, f'try {advice}', stops=True)
        kernels = choose_kernels(pred, labels, None, Settings(30))
    name = 'plain PyTorch' if kernels is None else kernels.__name__.rpartition('.')[2]
    place = torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'
    why_plain = str(caught[0].message) if kernels is None and caught else None
    return Finding('kernels', f'{name} on {place}{forced}', why_plain)
