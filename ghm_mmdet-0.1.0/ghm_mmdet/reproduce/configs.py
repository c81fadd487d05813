"""The shipped configs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

PACKAGE = Path(__file__).parent.parent
#: The value of `_base_`, a string or a list of strings.
_BASES = re.compile(r'^_base_ = (\[.*?\]|.*?$)', re.MULTILINE | re.DOTALL)
#: Bases whose keys the shipped configs only take values from, by `{{_base_.key}}`.
PIECES = ('backbones', 'box_losses', 'coco_test_dev', 'ghm_losses')


def config_path(path: str) -> Path:
    """A shipped config, `configs/...`, in the installed package or in the repository."""
    installed = PACKAGE / '.mim'
    found = (installed if installed.exists() else PACKAGE.parent) / path
    return found.relative_to(Path.cwd()) if Path.cwd() in found.parents else found


def shipped_configs() -> list[Path]:
    """Those of the paper's tables, and their variants."""
    return sorted(config_path('configs/ghm').glob('*.py'))


def stand_alone(path: Path) -> str:
    """The text of a shipped config that has MMDetection's own configs as its only bases."""
    from ..swap.writer import config_text

    bases = list(dict.fromkeys(_bases_by_name(path)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'bases.py')
        file.write_text(f'_base_ = {bases!r}\n', encoding='utf-8')
        original, new = (Config.fromfile(x, use_environment_variables=False) for x in (file, path))
    for piece in PIECES:
        for key in Config.fromfile(config_path(f'configs/_base_/{piece}.py')):
            new.pop(key, None)
    text = config_text(bases, original, new, f'{path.stem}, as ghm_mmdet ships it.')
    # Its variables of the environment stay variables.
    return text.replace(r'{\x7b', '{{')


def _bases_by_name(path: Path) -> Iterator[str]:
    """`mmdet::...` among the bases of a config and of its bases."""
    found = _BASES.search(path.read_text(encoding='utf-8'))
    for base in re.findall(r"'([^']+)'", found[1]) if found else ():
        if '::' in base:
            yield base
        else:
            yield from _bases_by_name(path.parent / base)
