"""What pyproject.toml can't say: the wheel carries configs and tools as MM* packages do."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')
PTH_FILE = 'ghm_mmdet.pth'
FIRST_IN_RECORD = '+ghm_mmdet'


def copy_mim_files(target: Path) -> None:
    """Copy what MIM and MMEngine look for in `<package>/.mim` to `target`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in MIM_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy2(source, target / name)


class BuildWithMim(build_py):
    """Add `.mim` and the start-up file of `ghm_mmdet/scope.py` to the wheel.

    `.mim` is there twice. onedl-mim 0.5.1 takes the first component of the first path in RECORD
    for the folder of a package. RECORD is sorted, and before `ghm_mmdet/` come the console script,
    `../../../bin/ghm-mmdet`, and the metadata. `FIRST_IN_RECORD` comes before these.
    """

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        wheel = Path(self.build_lib)
        # What an earlier build left there would be in this wheel, too.
        shutil.rmtree(wheel / 'ghm_mmdet', ignore_errors=True)
        super().run()
        for folder in ('ghm_mmdet', FIRST_IN_RECORD):
            copy_mim_files(wheel / folder / '.mim')
        shutil.copy2(ROOT / PTH_FILE, wheel)


os.chdir(ROOT)
setup(cmdclass=dict(build_py=BuildWithMim))
