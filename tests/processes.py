"""Processes of their own, forked from one that has imported MMDetection and the losses."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed as dist

ROOT = Path(__file__).parent.parent
#: Seconds that processes may take.
TIMEOUT = 200.0
_CONTEXT = get_context('forkserver')


def start(function: Callable[..., object], *arguments: object) -> BaseProcess:
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def start_all(function: Callable[..., object], number: int, *arguments: object) -> None:
    """`function(rank, *arguments)` in so many processes, of which none may fail."""
    processes = [start(function, rank, *arguments) for rank in range(number)]
    for process in processes:
        process.join(TIMEOUT)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * number


def leave_group() -> None:
    """End this process of a group as it is.

    DDP and its group, when they are freed, may wait for one another forever (PyTorch 2.1).
    """
    dist.barrier()
    os._exit(0)


def execute(code: str, *arguments: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    """What `python -c code arguments` would exit with, and print to its two outputs."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = start(_execute, sender, code, arguments, cwd)
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def _execute(sender: Connection, code: str, arguments: tuple[str, ...], cwd: Path) -> None:
    os.chdir(cwd)
    sys.argv = ['-c', *arguments]
    status: Any = 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(code, {'__name__': '__main__'})
        except SystemExit as stop:
            status = stop.code
        except Exception:
            traceback.print_exc()
            status = 1
    sender.send((int(status or 0), out.getvalue(), err.getvalue()))
