"""What all figures share: colours, lines, and how a figure is begun and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Of Okabe and Ito's palette, safe for the colour-blind.
BLUE, ORANGE, GREEN = '#0072b2', '#d55e00', '#009e73'
#: The line of each loss: the baseline, the rival, GHM.
BASELINE: dict[str, Any] = dict(color=BLUE, linestyle='--')
RIVAL: dict[str, Any] = dict(color=GREEN, linestyle='-.')
GHM: dict[str, Any] = dict(color=ORANGE, linestyle='-')
DPI = 120
STYLE = {'font.size': 9, 'lines.linewidth': 1.6, 'legend.fontsize': 8, 'svg.hashsalt': 'ghm'}


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, side by side, without pyplot: no backend is chosen.

    Args:
        width, height: In inches.
        columns: Number of axes. Default: 1.
    """
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save_figure(figure: Figure, path: str | Path, source: str | None = None) -> None:
    """Write a figure as .png or .svg, the same bytes each time.

    Args:
        figure, path: What, and where to.
        source: What it is drawn from, a line in the file's metadata. Default: None, no line.
    """
    metadata = {'Date' if Path(path).suffix == '.svg' else 'Software': None, 'Description': source}
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=DPI, metadata=metadata)
