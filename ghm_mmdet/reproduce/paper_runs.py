"""The runs behind the paper's tables, and the commands for them."""

from __future__ import annotations

from collections.abc import Iterable

from ..experiments.commands import shell_line
from . import GPUS
from .experiment import PaperRun, RunSettings
from .tables import Row, Table

#: A training of 14 epochs at the 0.824 s an iteration of Table 2, 8 GTX 1080 Ti.
HOURS_OF_PAPER = 23.5


def paper_run(name: str, settings: RunSettings, seed: int | None = None) -> PaperRun:
    """The run of a config of `configs/ghm/`; see `run_of`."""
    return run_of(Row('', name, ()), settings, seed)


def run_of(row: Row, settings: RunSettings, seed: int | None = None) -> PaperRun:
    """The run of a row, with a seed or with what its config says.

    On another number of GPUs than 8, the learning rate is scaled to the batch (`auto_scale_lr`).
    """
    batch = ('auto_scale_lr.enable=True', f'gpus={max(1, settings.gpus)}')
    scaled = batch if settings.gpus != GPUS else ()
    return PaperRun(row.run, row.path, settings, scaled, seed)


def paper_runs(
    tables: Iterable[Table], settings: RunSettings, seeds: int | None = None
) -> list[PaperRun]:
    """The runs of the tables, each once: all of a seed before the next."""
    rows = {row.run: row for table in tables for row in table.rows}
    of_seeds = (None,) if seeds is None else range(seeds)
    return [run_of(row, settings, seed) for seed in of_seeds for row in rows.values()]


def plan(tables: Iterable[Table], settings: RunSettings, seeds: int | None = None) -> str:
    """The commands that fill the tables, as shell lines, each run once."""
    tables = list(tables)
    runs = paper_runs(tables, settings, seeds)
    lines = [f'# {cost(len(runs))}']
    for table in tables:
        lines.append(f'\n# Table {table.number}: {table.title}')
        for row in table.rows:
            of_row = [run for run in runs if run.name == row.run]
            lines.append(f'# {row.method}' + ('' if of_row else f': {row.run}, see above'))
            for run in of_row:
                runs.remove(run)
                lines += [shell_line(command, settings.environment) for command in run.commands()]
    return '\n'.join(lines)


def cost(number: int) -> str:
    """What is known of the time that so many trainings take."""
    trainings = f'{number} {"training" if number == 1 else "trainings"} of {HOURS_OF_PAPER} h'
    return f"{trainings} on 8 GPUs, at the paper's 0.824 s an iteration; not measured here"
