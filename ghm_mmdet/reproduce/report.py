"""The paper's tables beside what was measured, from the runs in a work folder."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config

from . import GPUS
from .configs import differences
from .experiment import RunSettings
from .markdown import markdown_table
from .paper_runs import annotation_files, paper_run
from .runs import last_metrics, left_out, training_curve
from .tables import METRICS, SECONDS, Row, Table

#: Images of COCO's train2017 and val2017.
COCO_IMAGES = (118287, 5000)
#: Where the figures of the evaluation server go, as a table's columns: `{"AP": 39.9, ...}`.
TEST_DEV_SCORES = 'test-dev_scores.json'


def report(tables: Iterable[Table], work_dir: str | Path) -> str:
    """The tables in Markdown: paper, measured and difference of each figure.

    AP in percent. A cell is empty where nothing was run. The heading says what the runs were
    trained and evaluated on, and where their settings are not the configs'.
    """
    tables = list(tables)
    settings = RunSettings(Path(work_dir), gpus=GPUS)
    runs = {row.run: MeasuredRun(row.run, settings) for table in tables for row in table.rows}
    tested = [run for run in runs.values() if run.config is not None]
    parts = [_heading(tested), *(_table(table, runs) for table in tables)]
    return '\n\n'.join(part for part in parts if part)


class MeasuredRun:
    """What the folder of a run holds.

    `config` is the recorded one, `metrics` are those of its newest checkpoint on val2017; both
    are None if nothing was evaluated.
    """

    def __init__(self, name: str, settings: RunSettings) -> None:
        self.name = name
        self.run = paper_run(name, settings)
        self.config: Config | None = None
        self.metrics: dict[str, float] | None = None
        for folder in sorted(self.run.folder.glob('test/*'), key=_iterations):
            if metrics := last_metrics(folder):
                recorded = folder / f'{name}.py'
                with left_out(recorded):
                    config = Config.fromfile(recorded)
                    annotation_files(config)
                    self.metrics, self.config = metrics, config

    def measured(self, column: str, on_test_dev: bool) -> float | None:
        """A figure of a table, AP in percent."""
        if column == SECONDS:
            return self.seconds() if self.gpu() else None
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

    def seconds(self) -> float | None:
        """Mean time of a training iteration."""
        times = [record['time'] for record in training_curve(self.run.folder) if 'time' in record]
        return statistics.mean(times) if times else None

    def gpu(self) -> str | None:
        """The GPU that the training's log names."""
        for log in sorted(self.run.folder.glob('*/*.log')):
            text = log.read_text('utf-8', 'replace')
            if found := re.search(r'^\s*GPU [\d,]+: (.+)$', text, re.MULTILINE):
                return found[1]
        return None


def _iterations(folder: Path) -> int:
    return int(re.sub(r'\D', '', folder.name) or 0)


def _heading(tested: list[MeasuredRun]) -> str:
    lines = ["# The paper's tables: paper, measured, difference"]
    if not tested:
        return '\n\n'.join([*lines, 'Nothing was measured.'])
    lines += _with_names(((_data(run.config), run.name) for run in tested), len(tested))
    others = [(f'- {setting}', run.name) for run in tested for setting in _other_settings(run)]
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
    shipped = run.run.wanted
    return [
        f'`{key}={was!r}`, not `{now!r}`'
        for key, was, now in differences(run.config, shipped)
        if not (isinstance(was, str) and 'ann_file' in key) and 'data_root' not in key
    ]


def _table(table: Table, runs: dict[str, MeasuredRun]) -> str:
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


def _row(row: Row, table: Table, run: MeasuredRun) -> list[str | None]:
    cells: list[str | None] = [row.method]
    for column, paper in zip(table.columns, row.paper):
        digits = 3 if column == SECONDS else 1
        measured = run.measured(column, table.on_test_dev)
        difference = None if paper is None or measured is None else measured - paper
        for value, sign in ((paper, ''), (measured, ''), (difference, '+')):
            cells.append(None if value is None else f'{value:{sign}.{digits}f}')
    return cells


def _notes(table: Table, runs: dict[str, MeasuredRun]) -> list[str]:
    notes = []
    for row in table.rows:
        run = runs[row.run]
        if SECONDS in table.columns and run.gpu() and run.seconds() is not None:
            notes.append(f'- {row.method}: time on {run.gpu()}; the paper: GTX 1080 Ti')
        if table.on_test_dev and run.metrics is not None:
            ap = 100 * run.metrics['bbox_mAP']
            notes.append(f'- {row.method}: AP {ap:.1f} on val2017, not comparable')
    return notes
