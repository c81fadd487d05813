"""What a user sees while trainings run."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from .experiment import Experiment
from .logs import progress

#: Seconds between two lines where there is no terminal.
INTERVAL = 60


class Display:
    """A bar for each training that runs, on a terminal; elsewhere a line a minute.

    Attributes:
        live: Context in which the bars stand.
    """

    def __init__(self, number: int, jobs: int) -> None:
        self.live = Live(transient=True) if sys.stdout.isatty() else nullcontext()
        self._number, self._jobs = number, jobs
        self._seconds: dict[str, float] = {}
        self._next_line = 0.0

    def show(self, waiting: Sequence[Experiment], running: Collection[Experiment]) -> None:
        """Show how far those are that run, of all that are not over."""
        rows, shares = [], {}
        for experiment in waiting:
            found = progress(experiment.log) if experiment in running else None
            if found is not None:
                share, self._seconds[experiment.run], ap = found
                rows.append((experiment.run + ('' if ap is None else f', AP {ap:.1f}'), share))
                shares[experiment.run] = share
        if not rows:
            return
        left = time_left(waiting, shares, self._seconds) / self._jobs
        over = self._number - len(waiting)
        of_all = f'{over} of {self._number} done, about {in_words(left)} left'
        rows.append((of_all, over / self._number))
        if isinstance(self.live, Live):
            table = Table.grid(padding=(0, 1))
            for label, share in rows:
                table.add_row(label, ProgressBar(1, share, width=30), f'{share:.0%}')
            self.live.update(table)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + INTERVAL
            print('; '.join(f'{label} ({share:.0%})' for label, share in rows), flush=True)


def time_left(
    waiting: Sequence[Experiment], shares: dict[str, float], seconds: dict[str, float]
) -> float:
    """Seconds of the trainings that are not over, one after another.

    Args:
        waiting: The experiments.
        shares: By run, how much of it is done.
        seconds: By run, those of the whole training where they are known: the others take the mean.
    """
    mean = statistics.mean(seconds.values())
    return sum(seconds.get(e.run, mean) * (1 - shares.get(e.run, 0)) for e in waiting)


def in_words(seconds: float) -> str:
    """As `1 h 20 min`.

    Examples:
        >>> in_words(4800), in_words(90), in_words(12)
        ('1 h 20 min', '2 min', '12 s')
    """
    if seconds < 60:
        return f'{seconds:.0f} s'
    hours, minutes = divmod(round(seconds / 60), 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min'
