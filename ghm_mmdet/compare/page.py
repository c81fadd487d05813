"""A placeholder of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_report(
    folder: Path,
    results: dict[str, Any],
    pictures: Mapping[str, Sequence[bytes]] | None = None,
    densities: Mapping[str, Path] | None = None,
) -> None:
    """Write `page.html` and `report.md`."""
