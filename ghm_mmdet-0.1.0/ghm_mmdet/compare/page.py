"""The page and the report of a comparison, in its folder."""

from __future__ import annotations

import math
import os
import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any

from matplotlib.ticker import MaxNLocator

from ..stacks import mmdet_distribution
from ..visualization.record import KINDS, GradientDensityRecord, in_regions
from ..visualization.style import BASELINE, GHM, RIVAL
from .verdict import TEMPLATES, verdict

#: Of the arms, in turn: the figures' first, then more of Okabe and Ito's palette.
PURPLE, SKY = dict(color='#cc79a7', linestyle=':'), dict(color='#56b4e9', linestyle='--')
LINES = (BASELINE, RIVAL, GHM, PURPLE, SKY)
REGIONS = 30


def write_report(
    folder: Path,
    results: dict[str, Any],
    pictures: Mapping[str, Sequence[bytes]] | None = None,
    densities: Mapping[str, Path] | None = None,
) -> None:
    """Write `page.html`, which needs no other file, and `report.md`; each in one step.

    Args:
        folder: Where to.
        results: As in `results.json`, of any state: trainings may be to come, or have failed.
        pictures: 'ground truth' and the names of arms to PNG images of the same crops, in the
            same order. Default: None, without.
        densities: The names of arms to the records of `GradientDensityHook`. One that can't be
            read is named on the page. Default: None, without.
    """
    shares, unread = {}, {}
    for arm, path in (densities or {}).items():
        try:
            shares[arm] = _shares(GradientDensityRecord.load(path))
        except (OSError, ValueError) as error:
            unread[arm] = error
    arms = {arm['name']: arm for arm in results['arms']}
    said = dict(
        results=results, verdict=verdict(results), arms=arms, folder=folder,
        pictures=pictures or {}, shares=shares, unread=unread, mmdet=mmdet_distribution(),
        lines={arm: LINES[i % len(LINES)] for i, arm in enumerate(arms)},
        ticks=MaxNLocator(5).tick_values, base64=b64encode, quote=shlex.quote,
    )  # fmt: skip
    for name in ('page.html', 'report.md'):
        write_whole(folder / name, TEMPLATES.get_template(f'{name}.j2').render(said))


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step, beside other threads and processes that do."""
    partial = path.with_name(f'.{path.name}.{os.getpid()}-{get_ident()}')
    try:
        partial.write_text(text, encoding='utf-8')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _shares(record: GradientDensityRecord) -> dict[str, list[tuple[float, float]]]:
    """The gradient norms and log10 of the fraction of the examples, in the record's last row."""
    m = record.bins if record.bins % REGIONS else REGIONS
    counts = {kind: in_regions(record.histogram(kind)[0], m) for kind in KINDS}
    return {
        kind: [((i + 0.5) / m, math.log10(n / r.sum())) for i, n in enumerate(r) if n]
        for kind, r in counts.items()
    }
