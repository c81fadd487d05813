"""Where a command writes a config to."""

from __future__ import annotations

import io
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .places import file_to_write, write_text


def add_out(parser: ArgumentParser) -> None:
    add = parser.add_argument
    where = 'where to write the config; default: print it'
    add('--out', type=file_to_write, metavar='FILE', help=where)
    add('--force', action='store_true', help='overwrite FILE, if it exists')


def write(out: Path, text: str, force: bool, option: str = '--out') -> None:
    """Write a config as a whole, or leave what was there; `option` is that which names the file."""
    if out.suffix != '.py':
        python = 'as MMEngine reads no other config in Python'
        sys.exit(f'{option} must end with .py, {python}, got {out}')
    if out.exists() and not force:
        sys.exit(f'{out} exists: --force overwrites it')
    try:
        write_text(out, text)
    except (OSError, UnicodeError) as error:
        sys.exit(f'{out} can not be written: {error}')


def print_config(text: str) -> None:
    """To standard output; into a file in UTF-8, as MMEngine reads configs, whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(f'{text}\n'.encode(errors='backslashreplace'))
    else:
        print(text)


@contextmanager
def in_one_line(what: object) -> Iterator[None]:
    """End with a line that says what failed, and why; a closed pipe is no failure.

    Raises:
        SystemExit: With that line.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:  # of a config, which is code: whatever it raises
        message = str(error).strip()
        if not isinstance(error, (ValueError, TypeError, OSError, ImportError)) or not message:
            message = f'{type(error).__name__}: {message.partition(chr(10))[0]}'
        sys.exit(f'{what}: {message}')
