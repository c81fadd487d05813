"""What pyproject.toml can't say: the wheel carries configs and tools as MM* packages do."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')
PTH_FILE = 'ghm_mmdet.pth'


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
    """Add `ghm_mmdet/.mim` and the start-up file of `ghm_mmdet/scope.py` to the wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            # What an earlier build left there would be in this wheel, too.
            shutil.rmtree(Path(self.build_lib, 'ghm_mmdet'), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            copy_mim_files(Path(self.build_lib, 'ghm_mmdet', '.mim'))
            shutil.copy2(ROOT / PTH_FILE, self.build_lib)


class EggInfoWithMim(egg_info):
    """Add `.mim` to the wheel's metadata folder as well.

    onedl-mim 0.5.1 takes the first component of the first path in RECORD for the folder of a
    package. RECORD is sorted, and for a distribution named like its module the metadata folder
    `ghm_mmdet-<version>.dist-info` comes before `ghm_mmdet/`.
    """

    def run(self) -> None:
        super().run()
        copy_mim_files(Path(self.egg_info, '.mim'))


os.chdir(ROOT)
setup(cmdclass=dict(build_py=BuildWithMim, egg_info=EggInfoWithMim))
