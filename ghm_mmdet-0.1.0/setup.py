"""What pyproject.toml can't say: the wheel carries configs and tools as MM* packages do."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')
#: What trains on data that scripts of the repository make, and leftovers.
LEFT_OUT = ('demo*', 'bccd*', 'convert_bccd.py', '__pycache__')


class BuildWithMim(build_py):
    """Add `ghm_mmdet/.mim`, where MIM and MMEngine look for configs and tools, to the wheel."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'ghm_mmdet/.mim')
        # What an earlier build left there would be in this wheel, too.
        shutil.rmtree(target, ignore_errors=True)
        for name in MIM_FILES:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns(*LEFT_OUT)
                shutil.copytree(source, target / name, ignore=ignore)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / name)


os.chdir(ROOT)
setup(cmdclass=dict(build_py=BuildWithMim))
