"""Command lines of MIM, and what their runs leave in a work folder."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..stacks import mmdet_distribution


def mim_command(verb: str, config: str | Path, *args: str, gpus: int = 0) -> list[str]:
    """The command line of `mim train` or `mim test`, with this Python's MIM.

    Args:
        verb: `train` or `test`.
        config: Path of the config.
        *args: Further arguments.
        gpus: Number. Default: 0, the CPU.
    """
    command = [sys.executable, '-m', 'mim', verb, mmdet_distribution(), str(config)]
    return [*command, '--gpus', str(gpus), *args]


def shell_line(command: list[str], environment: dict[str, str]) -> str:
    """A command `python -m ...` as a user types it, after the variables that it needs."""
    variables = ''.join(f'{k}={shlex.quote(v)} ' for k, v in environment.items())
    words = command[2:] if command[2] == 'mim' else ['python', *command[1:]]
    return variables + shlex.join(words)


def last_metrics(work_dir: str | Path, prefix: str = 'coco/') -> dict[str, float] | None:
    """The newest evaluation in a work folder: name without the prefix to value; None if none."""
    folder = Path(work_dir)
    # What `mim test` writes at its end is newer than the scalars of the training.
    logs = [*sorted(folder.glob('*/vis_data/*.json')), *sorted(folder.glob('*/*.json'))]
    newest = None
    for log in logs:
        for record in whole_lines(log):
            found = {k[len(prefix) :]: v for k, v in record.items() if k.startswith(prefix)}
            newest = found or newest
    return newest


def training_curve(work_dir: str | Path) -> list[dict[str, float]]:
    """The records of training (with 'loss') of the newest run in a work folder, in order."""
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json'), reverse=True):
        if records := [record for record in whole_lines(log) if 'loss' in record]:
            return records
    return []


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
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
