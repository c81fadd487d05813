"""The paper's tables beside what was measured, from the runs in a work folder."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Dict, List

from mmengine.config import Config

from ..experiments.configs import differences
from ..experiments.logs import METRICS, last_metrics, left_out, progress, time_and_gpu
from ..experiments.markdown import markdown_table
from ..experiments.progress import in_words, time_left
from . import GPUS
from .experiment import PaperRun, RunSettings, annotation_files
from .paper_runs import cost, run_of
from .tables import SECONDS, Row, Table

#: Images of COCO's train2017 and val2017.
COCO_IMAGES = (118287, 5000)
#: Where the figures of the evaluation server go, as a table's columns: `{"AP": 39.9, ...}`.
TEST_DEV_SCORES = 'test-dev_scores.json'
#: By run, what the folder of each seed holds.
Runs = Dict[str, List['MeasuredRun']]


def report(tables: Iterable[Table], work_dir: str | Path, seeds: int | None = None) -> str:
    """The tables in Markdown: paper, measured and difference of each figure.

    AP in percent, of several seeds the mean and the standard deviation. A cell is empty where
    nothing was run. The heading says what the runs were trained and evaluated on, and where their
    settings are not the configs'.
    """
    tables, of_seeds = list(tables), (None,) if seeds is None else range(seeds)
    settings = RunSettings(Path(work_dir), gpus=GPUS)
    runs = {
        row.run: [MeasuredRun(run_of(row, settings, seed)) for seed in of_seeds]
        for table in tables
        for row in table.rows
    }
    tested = [run for of_row in runs.values() for run in of_row if run.config is not None]
    parts = [_heading(tested), *(_table(table, runs) for table in tables)]
    return '\n\n'.join(part for part in parts if part)


def status(runs: Sequence[PaperRun]) -> str:
    """What was run, what runs and what is missing, in Markdown, and what time it takes."""
    rows, shares, seconds = [], {}, {}
    waiting = [run for run in runs if run.result() is None]
    for run in runs:
        state, found = 'done', progress(run.log)
        if found is not None:
            shares[run.run], seconds[run.run] = found[:2]
        if run in waiting:
            share = f', {found[0]:.0%}' if found else ''
            state = f'{"running" if run.is_running() else "missing"}{share}'
        rows.append([run.run, state])
    left = f'{len(runs) - len(waiting)} of {len(runs)} done'
    if waiting and seconds:
        left += f', about {in_words(time_left(waiting, shares, seconds))} of training left'
    return '\n\n'.join([markdown_table(['run', 'state'], rows), left, cost(len(runs))])


class MeasuredRun:
    """What the folder of a run holds.

    `config` is the recorded one, `metrics` are those of its newest checkpoint on val2017; both
    are None if nothing was evaluated. `seconds` of an iteration are those of `gpu`.
    """

    def __init__(self, run: PaperRun) -> None:
        self.run = run
        self.config: Config | None = None
        self.metrics: dict[str, float] | None = None
        self.seconds, self.gpu = time_and_gpu(run.folder)
        for folder in sorted(run.folder.glob('test/*'), key=_iterations):
            if metrics := last_metrics(folder):
                recorded = folder / run.config.name
                with left_out(recorded):
                    config = Config.fromfile(recorded)
                    annotation_files(config)
                    self.metrics, self.config = metrics, config

    def measured(self, column: str, on_test_dev: bool) -> float | None:
        """A figure of a table, AP in percent."""
        if column == SECONDS:
            return self.seconds if self.gpu else None
        if on_test_dev:
            return self.test_dev_scores().get(column)
        value = None if self.metrics is None else self.metrics.get(METRICS[column])
        return None if value is None else 100 * value

    def test_dev_scores(self) -> dict[str, float]:
        """The figures of the evaluation server, where the user has written them down."""
        path = self.run.folder / TEST_DEV_SCORES
        with left_out(path):
            if path.exists():
                scores = json.loads(path.read_text(encoding='utf-8'))
                return {column: float(score) for column, score in scores.items()}
        return {}


def _iterations(folder: Path) -> int:
    return int(re.sub(r'\D', '', folder.name) or 0)


def _heading(tested: list[MeasuredRun]) -> str:
    lines = ["# The paper's tables: paper, measured, difference"]
    if not tested:
        return '\n\n'.join([*lines, 'Nothing was measured.'])
    lines += _with_names(((_data(run.config), run.run.run) for run in tested), len(tested))
    others = [(f'- {line}', run.run.run) for run in tested for line in _other_settings(run)]
    if others:
        lines.append('**Settings that are not those of the configs**:')
        lines.append('\n'.join(_with_names(others, len(tested))))
    return '\n\n'.join(lines)


def _with_names(pairs: Iterable[tuple[str, str]], number_of_runs: int) -> list[str]:
    """Each line once, with the runs that it is true of, if they are not all."""
    names: dict[str, list[str]] = {}
    for line, name in pairs:
        names.setdefault(line, []).append(name)
    return [
        line if len(of) == number_of_runs else f'{line} ({", ".join(of)})'
        for line, of in names.items()
    ]


def _data(config: Config) -> str:
    """Which data a run saw, judged by the annotations that its recorded config names."""
    files = annotation_files(config)
    names = f'{files[0]} and {files[1]}'
    if not all(path.exists() for path in files):
        return f'**Whether this is COCO can not be told**: {names} are not there any more.'
    images = tuple(number_of_images(path) for path in files)
    if images == COCO_IMAGES:
        return f'Data: COCO, {names}.'
    return f'**Not COCO**: trained on {images[0]} images and evaluated on {images[1]} ({names}).'


def number_of_images(annotations: Path) -> int:
    """How many images a COCO JSON has, which takes long to parse."""
    return annotations.read_bytes().count(b'"file_name"')


def _other_settings(run: MeasuredRun) -> list[str]:
    found = differences(run.config, run.run.wanted)
    return [f'`{key}={was!r}`, not `{now!r}`' for key, was, now in found]


def _table(table: Table, runs: Runs) -> str:
    split = 'test-dev' if table.on_test_dev else 'val2017'
    heads = []
    for column in table.columns:
        heads += [f'{column} paper', f'{column} measured', 'difference']
    rows = [_row(row, table, runs[row.run]) for row in table.rows]
    parts = [
        f'## Table {table.number}: {table.title} ({split})',
        markdown_table(['method', *heads], rows),
        '\n'.join(_notes(table, runs)),
    ]
    return '\n\n'.join(part for part in parts if part)


def _row(row: Row, table: Table, runs: list[MeasuredRun]) -> list[str | None]:
    cells: list[str | None] = [row.method]
    for column, paper in zip(table.columns, row.paper):
        digits = 3 if column == SECONDS else 1
        measured = (run.measured(column, table.on_test_dev) for run in runs)
        found = [value for value in measured if value is not None]
        mean = statistics.mean(found) if found else None
        difference = None if paper is None or mean is None else mean - paper
        spread = f' ± {statistics.stdev(found):.{digits}f}' if len(found) > 1 else ''
        for value, sign, behind in ((paper, '', ''), (mean, '', spread), (difference, '+', '')):
            cells.append(None if value is None else f'{value:{sign}.{digits}f}{behind}')
    return cells


def _notes(table: Table, runs: Runs) -> list[str]:
    notes = []
    for method, run in ((row.method, run) for row in table.rows for run in runs[row.run]):
        if SECONDS in table.columns and run.gpu:
            notes.append(f'- {method}: time on {run.gpu}; the paper: GTX 1080 Ti')
        if table.on_test_dev and run.metrics is not None:
            ap = 100 * run.metrics['bbox_mAP']
            notes.append(f'- {method}: AP {ap:.1f} on val2017, not comparable')
    return list(dict.fromkeys(notes))
