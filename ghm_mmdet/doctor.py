"""What is installed, which code computes the losses, and what is missing.

Exit status: 0 if a training can start, else 1.

Examples:
    ghm-mmdet doctor
    ghm-mmdet doctor --json
    python -m ghm_mmdet.doctor
"""

import inspect
import io
import json
import os
import re
import shlex
import sys
import tempfile
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path

from . import __version__

#: The repository, where this is a clone of it.
CLONE = Path(__file__).parents[1]


def _requirements(extra: str) -> list[str]:
    """What requirements/<extra>.txt says, from the metadata of the installed package."""
    try:
        # Lines such as 'mmcv==2.1.0; extra == "openmmlab"'
        lines = [line.partition(';') for line in requires('ghm_mmdet') or []]
    except PackageNotFoundError:
        lines = []
    found = [requirement.strip() for requirement, _, marker in lines if f'"{extra}"' in marker]
    # A clone on Python's path need not be installed.
    path = CLONE / f'requirements/{extra}.txt'
    return found or re.findall(r'^[^#\s]+', path.read_text(), re.M)


#: Each stack to its distributions, by the module that they bring.
STACKS = {
    stack: {
        module: next(line for line in _requirements(stack) if module in line)
        for module in ('mmcv', 'mmengine', 'mmdet', 'mim')
    }
    for stack in ('onedl', 'openmmlab')
}
#: mmcv leaves its operators out silently where a build tool is missing.
BUILD_MMCV = (
    f'pip install {shlex.join(_requirements("build"))} && '
    'MMCV_WITH_OPS=1 pip install --no-build-isolation'
)
PACKAGE_RESOURCES = 'setuptools 81 and later lack pkg_resources: pip install "setuptools<81"'
WEIGHTS_ONLY_VARIABLE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


@dataclass
class Finding:
    """A line of the report: what was looked at, what was found, and what to do."""

    name: str
    found: str
    advice: str | None = None  # None if all is well
    stops: bool = False  # whether no training can start


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')


def run(args: Namespace) -> None:
    # Packages print warnings and remarks while they are imported.
    noise = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
        warnings.simplefilter('ignore')
        findings = examine()
    stops = any(finding.stops for finding in findings)
    if args.json:
        shown = [asdict(finding) for finding in findings]
        found = dict(findings=shown, remedy=remedy(findings), can_train=not stops)
        print(json.dumps(found, indent=2))
    else:
        print(report(findings))
    sys.exit(stops)


def report(findings: list[Finding]) -> str:
    """The findings as text, a line each, with the advice below what is missing or wrong.

    >>> print(report([Finding('mim', 'missing', 'pip install openmim')]))
    mim         missing
     !  pip install openmim
    <BLANKLINE>
    A training can start.
    """
    lines = []
    for finding in findings:
        lines.append(f'{finding.name:<12}{finding.found}')
        if finding.advice:
            lines.append(f'{"!!" if finding.stops else " !":<4}{finding.advice}')
    stopping = sum(finding.stops for finding in findings)
    if not stopping:
        return '\n'.join([*lines, '', 'A training can start.'])
    lines += ['', f'No training can start: {stopping} to mend, marked !!']
    if command := remedy(findings):
        lines.append(f'All at once: {command}')
    return '\n'.join(lines)


def remedy(findings: list[Finding]) -> str | None:
    """The command that mends all at once; None if nothing stops a training, or this is no clone."""
    # The choice of the kernels is a variable's, not the installation's.
    broken = any(finding.stops and finding.name != 'kernels' for finding in findings)
    if not broken or not (CLONE / 'requirements/setup.sh').exists():
        return None
    steps = [f'cd {shlex.quote(str(CLONE))}']
    # `make env` leaves an environment that it once finished as it is.
    venv = Path(sys.prefix)
    if venv.resolve().parent == CLONE.resolve():
        steps.append(f'rm -rf {venv.name}')
    steps.append('make env' if stack_of_mmdet() == 'onedl' else 'make env STACK=openmmlab')
    return ' && '.join(steps)


def examine() -> list[Finding]:
    """All findings. What rests on a package that is missing or broken is not examined."""
    stack = stack_of_mmdet()
    findings = [
        Finding('ghm_mmdet', f'{__version__}, {Path(__file__).parent}'),
        Finding('python', f'{sys.version.split()[0]}, {sys.executable}'),
        _module('torch', 'pip install torch'),
    ]
    has_torch = findings[-1].advice is None
    if has_torch:
        findings.append(_guarded('CUDA', _cuda))
    findings += [examine_package(name, stack) for name in STACKS[stack]]
    findings.append(_stack(stack))
    if has_torch:
        findings.append(_guarded('kernels', _kernels))
    if not any(finding.stops for finding in findings):
        findings += [
            _guarded('bases', _bases),  # before _scope, which adds the prefix
            _guarded('scope', _scope),
            _guarded('setuptools', _package_resources),
            _guarded('checkpoints', _checkpoints),
        ]
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # even SystemExit, from a package that is imported
        return _line(error)
    return None


def _line(error: BaseException) -> str:
    return ': '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def stack_of_mmdet() -> str:
    """The stack whose MMDetection is installed; the default stack where there is none."""
    return 'openmmlab' if _distributions('mmdet') == ['mmdet'] else 'onedl'


def _distributions(module: str) -> list[str]:
    """The installed distributions that bring a module; the lite ones have less in them."""
    names = [_name(requirements[module]) for requirements in STACKS.values()]
    return [name for name in (*names, f'{module}-lite') if _version(name)]


def _name(requirement: str) -> str:
    return requirement.split('==')[0]


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _module(name: str, install: str, stops: bool = True) -> Finding:
    """A module that must import."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return Finding(name, 'missing', install, stops)
    error = failure(lambda: import_module(name))
    if error is None:
        return Finding(name, getattr(sys.modules[name], '__version__', spec.origin))
    missing = re.search("No module named '([a-z_]+)", error)
    culprit = missing[1] if missing else name
    advice = f'it is installed, but its import fails; install it again: {install}'
    if culprit == 'pkg_resources':
        advice = PACKAGE_RESOURCES
    elif culprit != name and culprit in ('torch', *STACKS['onedl']):
        advice = f'it needs {culprit}: see there'
    return Finding(name, error, advice, stops)


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return Finding('CUDA', f'{torch.version.cuda}, {torch.cuda.device_count()} x {name}')
    if torch.version.cuda is None:
        found = 'this torch is built without it: trainings run on the CPU'
        return Finding('CUDA', f'{found}; with it: pytorch.org/get-started')
    return Finding(
        'CUDA',
        f'torch is built for {torch.version.cuda}, but finds no device: trainings run on the CPU',
        'for a GPU look at `nvidia-smi`, and whether its driver is as new as this CUDA',
    )


def examine_package(module: str, stack: str) -> Finding:
    """One of mmcv, mmengine, mmdet and mim."""
    requirement, installed = STACKS[stack][module], _distributions(module)
    names = ', '.join(f'{name} {_version(name)}' for name in installed)
    if len(installed) > 1:
        uninstall = f'pip uninstall -y {" ".join(installed)}'
        advice = f'they overwrite one another: {uninstall} && pip install {requirement}'
        return Finding(module, names, advice, stops=True)
    install = f'pip install {requirement}'
    if module == 'mmcv':
        install = f'{_prebuilt(requirement)}; from source: {BUILD_MMCV} {requirement}'
    # MMDetection's own tools/train.py trains without MIM.
    finding = _module(module, install, stops=module != 'mim')
    if finding.advice is None:
        finding.found = names or f'{finding.found}, of no known distribution'
        if module == 'mmcv':
            return _operators(finding.found, requirement)
    return finding


def _prebuilt(wanted: str) -> str:
    """Where the wheels of mmcv that need no compiler come from."""
    return f'prebuilt for CUDA, where there is a wheel for this torch: mim install {wanted}'


def _operators(found: str, requirement: str) -> Finding:
    """mmcv, which imports, and its compiled operators."""
    error = failure(lambda: import_module('mmcv.ops'))
    if error is None:
        return Finding('mmcv', f'{found}, with compiled operators')
    lite = 'pip uninstall -y mmcv-lite, then ' if _version('mmcv-lite') else ''
    again = f'--force-reinstall --no-deps {requirement}'
    rebuild = f'{BUILD_MMCV} --no-cache-dir {again}'
    found = f'{found}, without compiled operators ({error})'
    advice = f'{lite}{_prebuilt(again)}; from source: {rebuild}'
    return Finding('mmcv', found, advice, stops=True)


def _stack(stack: str) -> Finding:
    installed = [name for module in STACKS[stack] for name in _distributions(module)]
    if not _distributions('mmdet'):
        return Finding('stack', 'none: MMDetection is not installed')
    mine = {_name(requirement) for requirement in STACKS[stack].values()}
    others = [name for name in installed if name not in mine and not name.endswith('-lite')]
    if others:
        advice = f'not tested; for {stack} alone: pip install {" ".join(STACKS[stack].values())}'
        return Finding('stack', f'{stack}, mixed with {", ".join(others)}', advice)
    return Finding('stack', f'{stack}; with MIM: mim train {_name(STACKS[stack]["mmdet"])} CONFIG')


def _kernels() -> Finding:
    """Choose the kernels and compute a loss with them."""
    import torch

    from .functional import ghm_c_loss
    from .ops.choice import VARIABLE, choose_kernels

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    forced = f' ({VARIABLE}={os.environ[VARIABLE]})' if os.environ.get(VARIABLE) else ''
    labels = torch.tensor([0, 1, 2, 2], device=device)
    error = failure(lambda: ghm_c_loss(torch.zeros(4, 2, device=device), labels).item())
    if error:
        advice = f'unset {VARIABLE}' if forced else f'{VARIABLE}=torch in the environment'
        return Finding('kernels', error, f'try {advice}', stops=True)
    return Finding('kernels', f'{choose_kernels(device)} on {device}{forced}')


def _scope() -> Finding:
    registry = import_module('mmdet.registry')
    error = failure(lambda: registry.MODELS.build(dict(type='ghm_mmdet.GHMC', use_sigmoid=True)))
    if error:
        return Finding('scope', error, 'install ghm_mmdet again: pip install .', stops=True)
    return Finding('scope', "type='ghm_mmdet.GHMC' builds")


def _bases() -> Finding:
    """Whether configs can inherit by `_base_ = 'ghm_mmdet::...'`, thanks to ghm_mmdet.pth."""
    base = "_base_ = 'ghm_mmdet::...'"
    if 'ghm_mmdet' not in import_module('mmengine.config.utils').MODULE2PACKAGE:
        return Finding(
            'bases',
            f'{base} is unknown to MMEngine, all else works',
            'ghm_mmdet.pth is not in site-packages: install ghm_mmdet by pip install .',
        )
    if not (Path(__file__).parent / '.mim').is_dir():
        return Finding('bases', f'by their paths in the clone; {base} is for installed wheels')
    return Finding('bases', f'{base} is known')


def _package_resources() -> Finding:
    """mmengine 0.10.7 imports pkg_resources at run time, to look packages up."""
    source = inspect.getsource(import_module('mmengine.utils.package_utils'))
    found = f'setuptools {_version("setuptools") or "missing"}'
    if 'pkg_resources' in source and find_spec('pkg_resources') is None:
        return Finding('setuptools', found, PACKAGE_RESOURCES, stops=True)
    return Finding('setuptools', found)


def _checkpoints() -> Finding:
    """Load what MMEngine saves: a checkpoint holds more than tensors."""
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.runner.checkpoint import load_from_local

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, 'checkpoint.pth'))
        torch.save(dict(message_hub=HistoryBuffer()), path)
        error = failure(lambda: load_from_local(path, 'cpu'))
    if error:
        return Finding(
            'checkpoints',
            'MMEngine cannot load its own with this torch, neither to resume nor to test',
            f'{WEIGHTS_ONLY_VARIABLE}=1 in the environment, for checkpoints that you trust',
        )
    forced = f' ({WEIGHTS_ONLY_VARIABLE} is set)' if os.environ.get(WEIGHTS_ONLY_VARIABLE) else ''
    return Finding('checkpoints', f'MMEngine loads its own{forced}')


if __name__ == '__main__':
    from .cli import main

    main(['doctor', *sys.argv[1:]])
