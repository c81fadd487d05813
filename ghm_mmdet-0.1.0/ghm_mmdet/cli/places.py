"""The files and folders that options name, and how a file is written.

The `type` of an option that names a place is one of the functions here. argparse calls it before
the command does anything, and says what is wrong in a line with the option's name.
"""

from __future__ import annotations

import os
import stat
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path


def place(text: str) -> Path:
    """A place that need not be on this machine, as in a command that is planned for another.

    `~` and `~user` are expanded: in `--option=~/x` the shell leaves that to the command.

    Raises:
        ArgumentTypeError: It is empty, or `-`, which stands for no stream here, or begins with `~`
            where there is no home folder.
    """
    path = os.path.expanduser(text)
    if text.strip() in ('', '-'):
        raise ArgumentTypeError(f'must name a file or a folder, got {text!r}')
    if path.split('/')[0] == '~':
        raise ArgumentTypeError(f'{text!r} needs a home folder: set HOME, or write the whole path')
    return Path(path)


def file_to_read(text: str) -> Path:
    """A file that is there, else ArgumentTypeError."""
    return _checked(place(text), 'file', os.R_OK)


def config_to_read(text: str) -> str:
    """A config, by the path of a file that is there or as mmdet::..., else ArgumentTypeError."""
    return text if '::' in text else str(file_to_read(text))


def folder_to_read(text: str) -> Path:
    """A folder that is there, else ArgumentTypeError."""
    return _checked(place(text), 'folder', os.R_OK)


def file_to_write(text: str) -> Path:
    """A file that is there or can be made with its folders, else ArgumentTypeError."""
    return _made(place(text), 'file')


def folder_to_write(text: str) -> Path:
    """A folder that is there or can be made, else ArgumentTypeError."""
    return _made(place(text), 'folder')


def _made(path: Path, kind: str) -> Path:
    """The path, if it is one of that kind and may be written, or its folders may be made."""
    there = Path(os.path.realpath(path)) if kind == 'file' else path  # `write_text` follows links
    # No usual file system takes a longer name.
    while not os.path.lexists(there) and len(os.fsencode(there.name)) <= 255:
        there, kind = there.parent, 'folder'
    _checked(there, kind, os.W_OK)
    return path


def _checked(path: Path, kind: str, access: int) -> Path:
    """The path, if it is one of that kind and open to that access."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        link = f', a link to {os.readlink(path)!r}' if os.path.islink(path) else ''
        raise ArgumentTypeError(f'{str(path)!r}{link}: {error.strerror}') from None
    is_a = 'folder' if stat.S_ISDIR(mode) else 'file' if stat.S_ISREG(mode) else 'device or pipe'
    if is_a != kind:
        raise ArgumentTypeError(f'{str(path)!r} is a {is_a}, not a {kind}')
    if not os.access(path, access):
        raise ArgumentTypeError(f'{str(path)!r}: Permission denied')
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 with its folders, as a whole, or leave what was there.

    A file that is there is overwritten where it lies, not replaced: links to it, its owner and its
    permissions stay.

    Raises:
        OSError: It can't be written.
        UnicodeEncodeError: The text holds what is no character, as a path that is not UTF-8 does.
    """
    data, path = text.encode(), Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    try:
        _put(path, data)
    except BaseException:
        with suppress(OSError):
            path.unlink() if before is None else _put(path, before)
        raise


def _put(path: Path, data: bytes) -> None:
    """Without giving up the space that a file has, which on a full disk another would take."""
    with open(path, 'r+b' if path.exists() else 'wb') as file:
        file.write(data)
        file.truncate()
