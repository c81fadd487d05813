"""A placeholder of the verdict."""

from __future__ import annotations

from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """What is said of a comparison."""

    sentence: str


def verdict(results: dict[str, Any]) -> Verdict:
    """What `results.json` of a comparison says."""
    return Verdict('No verdict yet.')
