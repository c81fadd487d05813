"""What trainings and tests leave in their folders, as MMEngine logs it."""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Dict

#: A line of a log.
Record = Dict[str, Any]
#: Column of a table to the name of MMDetection's metric, which is a fraction.
METRICS = {f'AP{at}': f'bbox_mAP_{at}' for at in (50, 60, 70, 75, 80, 90, *'sml')}
METRICS['AP'] = 'bbox_mAP'
#: What MMEngine logs of a training whose gradient is clipped.
NORM = 'grad_norm'
#: A line of training of MMEngine's text log: epoch, iteration, how many it has; days, hours,
#: minutes and seconds to the end; seconds of an iteration.
_TRAIN_LINE = re.compile(
    r'(?:Epoch\(train\) +\[(\d+)\]|Iter\(train\) +)\[ *(\d+)/(\d+)\].*?'
    r' eta: (?:(\d+) days?, )?(\d+):(\d+):(\d+).*? time: ([\d.]+)'
)
_AP = re.compile(r'/(?:bbox_)?mAP: ([\d.]+)')
#: What ends a traceback, but MIM's own.
_ERROR = re.compile(r'^(?!\S*CalledProcessError)[\w.]*Error\b.*', re.MULTILINE)


def last_metrics(work_dir: str | Path) -> dict[str, float] | None:
    """The newest evaluation in a work folder: name without the prefix to value; None if none."""
    folder = Path(work_dir)
    # What `mim test` writes at its end is newer than the scalars of the training.
    logs = [*sorted(folder.glob('*/vis_data/*.json')), *sorted(folder.glob('*/*.json'))]
    found = [_metrics(record) for log in logs for record in whole_lines(log)]
    return next((metrics for metrics in reversed(found) if metrics), None)


def training_curve(work_dir: str | Path) -> list[Record]:
    """The records of training (with 'loss'), by iteration, of all starts of a training."""
    return _of_all_starts(work_dir, lambda record: 'loss' in record)


def gradient_norms(work_dir: str | Path) -> list[float]:
    """Before the clipping, where the training logs them."""
    norms = (record.get(NORM, math.nan) for record in training_curve(work_dir))
    return [norm for norm in norms if math.isfinite(norm)]


def validations(work_dir: str | Path) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of every validation of a training; no metrics where nothing was detected."""
    found = _of_all_starts(
        work_dir, lambda record: bool(_metrics(record)) or {'time', 'loss'} & {*record} == {'time'}
    )
    return [(record.get('step', 0), _metrics(record)) for record in found]


def _of_all_starts(work_dir: str | Path, wanted: Callable[[Record], bool]) -> list[Record]:
    """A training that goes on logs again what came after its last checkpoint."""
    found: list[Record] = []
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        if part := [record for record in whole_lines(log) if wanted(record)]:
            begin = part[0].get('step', 0)
            found = [record for record in found if record.get('step', 0) < begin] + part
    return found


def _metrics(record: Record) -> dict[str, float]:
    """Those of an evaluation, by name without the prefix; of another record none."""
    named = {key.partition('/')[2]: value for key, value in record.items() if '/' in key}
    return named if any(name.endswith('mAP') for name in named) else {}


def ap_of(metrics: dict[str, float]) -> float:
    """AP in percent: COCO's, or Pascal VOC's where that is measured."""
    return 100 * metrics.get(METRICS['AP'], metrics.get('mAP', math.nan))


def diverged_since(work_dir: str | Path) -> tuple[int, int] | None:
    """The first logged iteration from which on the loss is not finite, and how many are logged."""
    curve = training_curve(work_dir)
    lost = [*takewhile(lambda record: not math.isfinite(record['loss']), reversed(curve))]
    return (lost[-1].get('step', 0), len(lost)) if lost else None


def time_and_gpu(work_dir: str | Path) -> tuple[float | None, str | None]:
    """The mean seconds of an iteration in the latest start that logged any, and its GPU."""
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json'), reverse=True):
        if times := [r['time'] for r in whole_lines(log) if 'loss' in r and 'time' in r]:
            texts = (text.read_text('utf-8', 'replace') for text in log.parents[1].glob('*.log'))
            gpu = re.search(r'^\s*GPU [\d,]+: (.+)$', '\n'.join(texts), re.MULTILINE)
            return statistics.mean(times), gpu and gpu[1]
    return None, None


def tail(log: Path, size: int = 2**16) -> str:
    """The end of a text file; empty where there is none."""
    if not log.exists():
        return ''
    with open(log, 'rb') as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode('utf-8', 'replace')


def progress(log: Path) -> tuple[float, float, float | None] | None:
    """How far a training is, by the last line of training that it printed; None before the first.

    Returns:
        The share that is done, in [0, 1]; the seconds that all of it takes; its last AP in percent.
    """
    text = tail(log)
    if not (lines := _TRAIN_LINE.findall(text)):
        return None
    numbers = (float(number or 0) for number in lines[-1])
    epoch, done, of, days, hours, minutes, seconds, of_one = numbers
    passed = (done + max(epoch - 1, 0) * of) * of_one
    left = seconds + 60 * (minutes + 60 * (hours + 24 * days))
    aps = _AP.findall(text)
    return passed / (passed + left), passed + left, 100 * float(aps[-1]) if aps else None


def last_error(text: str) -> str | None:
    """The line of the last error that a traceback in a log ends with."""
    found = _ERROR.findall(text)
    return found[-1].strip() if found else None


def whole_lines(path: Path) -> Iterator[Record]:
    """The JSON objects of a file, one in each line; a line that is not whole is named and left out.

    So ends a file whose writer was killed, or found the disk full.
    """
    for number, line in enumerate(path.read_text('utf-8', 'replace').splitlines(), start=1):
        with left_out(f'{path}, line {number}'):
            if line.strip():
                yield dict(json.loads(line))


@contextmanager
def left_out(what: object) -> Iterator[None]:
    """Name on standard error what can't be read, and go on without it."""
    try:
        yield
    except Exception as error:
        _warn(f'{what}: left out, {type(error).__name__}: {error}')


@lru_cache(maxsize=None)  # once, though a report reads a log several times
def _warn(line: str) -> None:
    print(line, file=sys.stderr)
