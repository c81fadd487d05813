"""A placeholder of the preflight."""

from __future__ import annotations

from typing import NamedTuple

from mmengine.config import Config


class Finding(NamedTuple):
    """What is wrong, and what to do."""

    is_error: bool
    what: str
    remedy: str


def check_config(config: Config, gpus: int | None = None) -> list[Finding]:
    """What is wrong with a config and its data."""
    return []
