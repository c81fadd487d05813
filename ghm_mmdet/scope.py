"""Make `_base_ = 'ghm_mmdet::ghm/...'` known to MMEngine.

MMEngine resolves the prefix of a base config only for the packages of its own table,
`mmengine.config.utils.MODULE2PACKAGE`, and reads that table before a config could import
anything. `ghm_mmdet.pth`, which Python executes at start-up, therefore calls `announce()`:
the entry is added the moment MMEngine is imported, and nothing is imported before that.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TABLE_MODULE = 'mmengine.config.utils'


def _add_entry(table_module: ModuleType) -> None:
    table_module.MODULE2PACKAGE.setdefault('ghm_mmdet', 'ghm_mmdet')


class _AddEntryOnImport(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != _TABLE_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_and_add(module: ModuleType) -> None:
            exec_module(module)
            _add_entry(module)

        spec.loader.exec_module = exec_and_add  # type: ignore[method-assign]
        return spec


def announce() -> None:
    """Enter this package into MMEngine's table, now or as soon as MMEngine is imported."""
    if _TABLE_MODULE in sys.modules:
        _add_entry(sys.modules[_TABLE_MODULE])
    elif not any(isinstance(finder, _AddEntryOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AddEntryOnImport())
