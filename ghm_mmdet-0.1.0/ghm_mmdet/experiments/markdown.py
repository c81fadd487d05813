"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown, without a line break at its end.

    Args:
        heads: Of the columns.
        rows: A cell for each column; None leaves it empty.

    Examples:
        >>> print(markdown_table(['losses', 'AP'], [['focal', 0.25], ['GHM-C', None]]))
        | losses | AP |
        |---|---|
        | focal | 0.25 |
        | GHM-C |  |
    """
    head, *body = (' | '.join(map(_cell, line)) for line in (heads, *rows))
    return '\n'.join([f'| {head} |', '|---' * len(heads) + '|', *(f'| {line} |' for line in body)])


def _cell(value: object) -> str:
    return '' if value is None else str(value).replace('|', '\\|')
