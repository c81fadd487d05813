"""What every command line does with its output and its interrupts."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def command_line() -> Iterator[None]:
    """Run a command without a traceback where its terminal, reader or user is the reason.

    A character that the terminal's encoding lacks is printed as its code. A reader that closes the
    pipe, as `head` does, ends the command with status 0, a full disk with a line. Ctrl-C ends it
    with a line and status 130, and so does SIGTERM, with which job schedulers and containers end a
    process. In a thread, as in a web interface, both are left to the main thread.

    Raises:
        SystemExit: By Ctrl-C, SIGTERM or a stream that can't be written to.
    """
    previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ('stdout', 'stderr'):
        # Closed by `>&-` it is None.
        stream = getattr(sys, name) or open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
        setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        try:
            yield
        finally:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, previous)
            sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more when it exits, its own stream, which has a descriptor.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.exit(str(error))
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
