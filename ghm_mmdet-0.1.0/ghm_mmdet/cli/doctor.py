"""Say what stands in the way of a training: in the installation, or in a config and its data.

Without CONFIG it looks at what is installed, and says which code computes the losses. With CONFIG
it builds the data sets, reads their annotations and images, and compares them with the config.
What is marked !! is to be mended, what is marked ! is a doubt.

Exit status: 0 if a training can start, else 1.

Examples:
    ghm-mmdet doctor
    ghm-mmdet doctor my_config.py
    ghm-mmdet doctor my_config.py --gpus 4 --cfg-options train_dataloader.batch_size=4
"""

from __future__ import annotations

import io
import os
import re
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
from .places import config_to_read
from .write import in_one_line

#: What a training imports; each rests on those before it.
IMPORTED = ('torch', 'mmengine.runner', 'mmcv.ops', 'mmdet.apis', 'mim')
#: mmcv leaves its operators out silently where a build tool is missing.
BUILD_MMCV = (
    "pip install 'setuptools<81' wheel ninja psutil && "
    'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir'
)
#: OpenCV's build without windows needs no library of the system, its other build needs these two.
NO_WINDOWS = 'pip install --force-reinstall --no-deps opencv-python-headless'
OF_WINDOWS = re.compile(r'libGL\.so|libgthread-2\.0\.so')
DEBIAN = '# or, on Debian, for the build with windows: apt-get install libgl1 libglib2.0-0'


@dataclass
class Finding:
    """A line of the report: what was looked at, what was found, and what to do."""

    name: str
    found: str
    advice: str | None = None  # a command, and a remark after #; None if all is well
    stops: bool = False  # whether no training can start

    def __str__(self) -> str:
        advice = f'\n{"!!" if self.stops else " !":<4}{self.advice}' if self.advice else ''
        return f'{self.name:<12}{self.found}{advice}'


def add_options(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    add = parser.add_argument
    what = 'path, or name as mmdet::...; default: look at the installation'
    add('config', nargs='?', type=config_to_read, help=what)
    add('--gpus', type=int, help='how many the training will run on; 0: the CPU')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings of the config')


def run(args: Namespace) -> None:
    """Print the report.

    Raises:
        SystemExit: With status 0 if a training can start, else 1.
    """
    if args.config is None and (args.gpus is not None or args.cfg_options):
        sys.exit('--gpus and --cfg-options need CONFIG, which is not given')
    # Packages print warnings and remarks while they are imported.
    noise = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
        warnings.simplefilter('ignore')
        findings = examine()
    if args.config is not None and not any(finding.stops for finding in findings):
        findings = examine_config(args)
    stopping = sum(finding.stops for finding in findings)
    verdict = f'No training can start: {stopping} to mend, marked !!, from top to bottom'
    print(*findings, '', verdict if stopping else 'A training can start.', sep='\n')
    sys.exit(stopping > 0)


def examine_config(args: Namespace) -> list[Finding]:
    """What a config and its data have against a training."""
    from ..experiments.configs import parse_options
    from ..preflight import check_config
    from ..swap.harmonize import load

    with in_one_line(args.config):
        config = load(args.config)
        config.merge_from_dict(parse_options(args.cfg_options))
        found = check_config(config, args.gpus)
    return [Finding(('doubt', 'error')[x.is_error], x.what, x.remedy, x.is_error) for x in found]


def examine() -> list[Finding]:
    """All findings. What rests on a package that is missing or broken is not examined."""
    # The one of which most is installed, else the default.
    stack = max(STACKS, key=lambda name: len(_of_stack(name)))
    packages: list[Finding] = []
    for imported in IMPORTED:
        packages.append(_package(imported, stack, any(finding.stops for finding in packages)))
    findings = [
        Finding('ghm_mmdet', f'{__version__}, {Path(__file__).parents[1]}'),
        Finding('python', f'{sys.version.split()[0]}, {sys.executable}'),
        *packages,
    ]
    if not any(finding.stops for finding in packages):
        findings.append(_stack(stack))
    if not packages[0].stops:
        if error := failure(lambda: findings.append(_kernels())):
            advice = 'this check failed itself; a training may start or not'
            findings.append(Finding('kernels', error, advice))
        elif not findings[-1].stops:  # they need PyTorch alone
            losses = '' if failure(lambda: import_module('ghm_mmdet.losses')) else ' and losses'
            findings.append(Finding(f'functional{losses}: ', 'ready'))
    return findings


def failure(attempt: Callable[[], object]) -> str | None:
    """The error of an attempt in one line, or None if it succeeds."""
    try:
        attempt()
    except (Exception, SystemExit) as error:  # SystemExit: from a package that is imported
        return ': '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    return None


def _package(imported: str, stack: str, broken: bool) -> Finding:
    """PyTorch, or a package of the stack; `broken` if one that it rests on is."""
    module = imported.split('.')[0]
    installed = distributions(module)
    found = ', '.join(f'{name} {installed_version(name)}' for name in installed) or 'no version'
    stops = module != 'mim'  # MMDetection's own tools/train.py trains without MIM
    if len(installed) > 1:
        return Finding(module, f'{found} overwrite one another', _install(stack, module), stops)
    if getattr(find_spec(module), 'origin', None) is None:  # None of what an uninstall left
        return Finding(module, 'missing', _install(stack, module), stops)
    if broken:
        return Finding(module, f'{found}, not examined before that is mended')
    if error := failure(lambda: _use(imported)):
        return Finding(module, f'{found}, {error}', _remedy(error, stack, module), stops)
    return Finding(module, found)


def _use(imported: str) -> None:
    import_module(imported)
    if imported.startswith('mmengine'):  # of which version 0.10.7 imports pkg_resources only here
        import_module('mmengine.utils').is_installed('mmengine')


def _install(stack: str, *modules: str) -> str:
    """The command that leaves the stack's distributions of these modules, and no others."""
    requirements = ' '.join(STACKS[stack][module] for module in modules)
    installed = ' '.join(name for module in modules for name in distributions(module))
    # An install alone would find its requirement satisfied.
    uninstall = f'pip uninstall -y {installed} && ' if installed else ''
    if 'mmcv' not in modules:
        return f'{uninstall}pip install {requirements}'
    prebuilt = f'prebuilt, if there is one for this torch: {uninstall}mim install {requirements}'
    return f'{uninstall}{BUILD_MMCV} {requirements}  # or, {prebuilt}'


def _remedy(error: str, stack: str, module: str) -> str:
    """The command that mends the error of an import."""
    if 'pkg_resources' in error:
        return "pip install 'setuptools<81'  # later ones lack pkg_resources"
    opencv = installed_version('opencv-python') or installed_version('opencv-python-headless')
    if (opencv and "'cv2'" in error) or OF_WINDOWS.search(error):
        return f'{NO_WINDOWS}{f"=={opencv}" if opencv else ""}  {DEBIAN}'
    for other, pinned in STACKS[stack].items():
        name = distribution_name(pinned)
        # MMCV==2.2.0 is used but incompatible: if it is the one wanted, this module is to blame.
        if f'{other}==' in error.lower() and pinned != f'{name}=={installed_version(name)}':
            return _install(stack, other)
    lacking = re.search(r"No module named '(\w+)'", error)
    if lacking and lacking[1] != module:
        return f'pip install {STACKS[stack][module]}  # which brings {lacking[1]}'
    if module == 'torch' and (version := installed_version('torch')):  # mmcv was built for it
        return f'pip uninstall -y torch && pip install torch=={version.split("+")[0]}'
    return _install(stack, module)


def _of_stack(stack: str) -> list[str]:
    return [*filter(installed_version, map(distribution_name, STACKS[stack].values()))]


def _stack(stack: str) -> Finding:
    mixed = [m for m in STACKS[stack] if not {*distributions(m)} <= {*_of_stack(stack)}]
    if mixed:
        return Finding('stack', f'{stack}, mixed: not tested', _install(stack, *mixed))
    mmdet = distribution_name(STACKS[stack]['mmdet'])
    return Finding('stack', f'{stack}; with MIM: mim train {mmdet} CONFIG')


def _kernels() -> Finding:
    """Compute a loss, and say with what."""
    import torch

    from ..formulas import Settings
    from ..functional import ghm_c_loss
    from ..functional.passes import count_sigmoid
    from ..ops.trial import VARIABLE

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    forced = f' ({VARIABLE}={os.environ[VARIABLE]})' if os.environ.get(VARIABLE) else ''
    pred, labels = torch.zeros(4, 2, device=device), torch.tensor([0, 1, 2, 2], device=device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if error := failure(lambda: ghm_c_loss(pred, labels).item()):
            advice = f'unset {VARIABLE}' if forced else f'export {VARIABLE}=torch'
            return Finding('kernels', error, advice, stops=True)
        counted = count_sigmoid(pred, labels, None, None, Settings(30))
    kernels = getattr(counted.examples, 'kernels', None)
    name = 'plain PyTorch' if kernels is None else kernels.__name__.rpartition('.')[2]
    place = torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'
    why_plain = str(caught[0].message) if kernels is None and caught else None
    return Finding('kernels', f'{name} on {place}{forced}', why_plain)
