"""Command lines of MIM, and commands that end with the process that runs them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..stacks import mmdet_distribution

_running: set[subprocess.Popen] = set()


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


def shell_line(command: list[str], environment: Mapping[str, str]) -> str:
    """A command `python -m ...` as a user types it, after the variables that it needs."""
    variables = ''.join(f'{k}={shlex.quote(v)} ' for k, v in environment.items())
    words = command[2:] if command[2] == 'mim' else ['python', *command[1:]]
    return variables + shlex.join(words)


def run_command(
    command: Sequence[str],
    log: IO[str],
    environment: Mapping[str, str],
    held: int | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        log: File that receives what it prints.
        environment: All of its variables.
        held: Descriptor of a locked file, which stays locked until the last process of the command
            has ended, even where this one is killed. Default: None, none.
        watch: Called about once a second; what it raises ends the command.

    Raises:
        subprocess.CalledProcessError: It failed.
        KeyboardInterrupt: It was ended, by an interrupt of this thread or by `end_commands`.
    """
    process = subprocess.Popen(command, stdin=held, stdout=log, stderr=log, env=environment)
    _running.add(process)
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            watch()
        if process not in _running:
            raise KeyboardInterrupt
    finally:
        if process.poll() is None:
            _end(process)
        _running.discard(process)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


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
