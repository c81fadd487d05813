"""The parser of `ghm-mmdet`, which says what may have been meant."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentError, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn


def did_you_mean(value: object, choices: Iterable[object]) -> str:
    """The end of a message on a wrong value, `; did you mean 'x'?`; '' if none is like it."""
    like = get_close_matches(str(value), list(map(str, choices)))
    return f'; did you mean {" or ".join(map(repr, like))}?' if like else ''


class Parser(ArgumentParser):
    """Prints the help where a command is left out, and one line for what is wrong."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """Arguments of a program, of which it must know all."""
        args = sys.argv[1:] if args is None else args
        if self._subparsers and not args:
            args = ['--help']
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = did_you_mean(unknown[0].partition('=')[0], self._option_string_actions)
            self.error(f'unrecognized arguments: {" ".join(unknown)}{hint}')
        return known, unknown

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = ', '.join(map(str, action.choices))
            hint = did_you_mean(value, action.choices)
            raise ArgumentError(action, f'must be one of {allowed}, got {value!r}{hint}')

    def error(self, message: str) -> NoReturn:
        """End with a line, and status 2."""
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')
