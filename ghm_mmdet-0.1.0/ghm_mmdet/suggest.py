"""What may have been meant by a wrong name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(value: object, known: Iterable[object]) -> str:
    """The end of a message on a wrong name, `; did you mean 'x'?`; '' if none is like it.

    Examples:
        >>> did_you_mean('temperd', ['released', 'tempered'])
        "; did you mean 'tempered'?"
    """
    like = get_close_matches(str(value), list(map(str, known)), n=1)
    return f'; did you mean {like[0]!r}?' if like else ''
