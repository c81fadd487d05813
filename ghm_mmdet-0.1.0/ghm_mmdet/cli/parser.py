"""The parser of `ghm-mmdet`: one line says what is wrong, and what may have been meant."""

from __future__ import annotations

from argparse import Action, ArgumentError, ArgumentParser
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn


def did_you_mean(value: object, choices: Iterable[object]) -> str:
    """The end of a message on a wrong value, `; did you mean 'x'?`; '' if none is like it."""
    like = get_close_matches(str(value), list(map(str, choices)))
    return f'; did you mean {" or ".join(map(repr, like))}?' if like else ''


class Parser(ArgumentParser):
    """One that says of a choice what may have been meant, and in one line what is wrong."""

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = ', '.join(map(str, action.choices))
            hint = did_you_mean(value, action.choices)
            raise ArgumentError(action, f'must be one of {known}, got {value!r}{hint}')

    def error(self, message: str) -> NoReturn:
        """End with the line, and status 2."""
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')
