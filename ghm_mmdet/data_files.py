"""Tables of the package that lie beside its modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path) -> Any:
    """What a YAML file of the package holds.

    By the loader, for a package in a zip, too, where `pkgutil.get_data` fails on Python 3.8.
    """
    return yaml.safe_load(__loader__.get_data(str(path)))  # type: ignore[name-defined]
