"""What every command line does with its output and its interrupts."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


@contextmanager
def command_line() -> Iterator[None]:
    """Run a command without a traceback where its terminal, reader or user is the reason.

    A character that the terminal's encoding lacks is printed as its code. A reader that closes the
    pipe, as `head` does, ends the command with status 0, a full disk with a line. Ctrl-C ends it
    with a line and status 130, and so does SIGTERM, with which job schedulers and containers end a
    process.

    The process is left as it was: it may be a server, which runs the command in a thread and has
    put something else in the place of the standard streams.

    Raises:
        SystemExit: By Ctrl-C, SIGTERM or a stream that can't be written to.
    """
    with ExitStack() as left:
        _take_sigterm(left)
        for name in ('stdout', 'stderr'):
            _take_every_character(name, left)
        try:
            try:
                yield
            finally:
                sys.stdout.flush()
        except OSError as error:
            _discard_what_is_refused()
            if not isinstance(error, BrokenPipeError):
                sys.exit(str(error))
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            sys.exit(130)


def _take_sigterm(left: ExitStack) -> None:
    # Python gives signals to the main thread, and lets no other set their handlers.
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        left.callback(signal.signal, signal.SIGTERM, previous or signal.SIG_DFL)


def _take_every_character(name: str, left: ExitStack) -> None:
    stream = getattr(sys, name)
    if stream is None:  # closed by `>&-`
        null = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
        left.callback(setattr, sys, name, None)
        setattr(sys, name, left.enter_context(null))
    elif isinstance(stream, io.TextIOWrapper):
        left.callback(stream.reconfigure, errors=stream.errors)
        stream.reconfigure(errors='backslashreplace')


def _discard_what_is_refused() -> None:
    """Of a standard output that takes no more: the interpreter flushes it when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):  # without a descriptor it is none of the interpreter's
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
