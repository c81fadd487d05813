"""Commands that end with the process that runs them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_running: set[subprocess.Popen] = set()


def run_command(command: Sequence[str], log: IO[str], environment: Mapping[str, str]) -> None:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        log: File that receives what it prints.
        environment: All of its variables.

    Raises:
        subprocess.CalledProcessError: It failed.
        KeyboardInterrupt: It was ended, by an interrupt of this thread or by `end_commands`.
    """
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    _running.add(process)
    try:
        status = process.wait()
        if process not in _running:
            raise KeyboardInterrupt
    finally:
        if process.poll() is None:
            _end(process)
        _running.discard(process)
    if status:
        raise subprocess.CalledProcessError(status, command)


def end_commands() -> None:
    """End the commands that run in any thread."""
    while _running:
        _end(_running.pop())


def _end(process: subprocess.Popen) -> None:
    # MIM starts the training as a process of its own, and its launcher one for each GPU.
    started = list(_descendants(process.pid))
    process.kill()
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> Iterator[int]:
    """All processes that a process started, as Linux knows them; elsewhere none."""
    for children in Path(f'/proc/{pid}/task').glob('*/children'):
        with suppress(OSError):
            for child in map(int, children.read_text(encoding='utf-8').split()):
                yield child
                yield from _descendants(child)
