"""How a stage tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total): what is being counted, how many are done, how many there are."""


def silent(label: str, done: int, total: int) -> None:
    """The progress of a caller who does not care."""
