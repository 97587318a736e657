"""What can go wrong that is not a bug, and the exit code that each kind ends a command with.

An error says what is wrong, where, and how to fix it. `rgs_cli.main` is the one place that turns it into
lines on stderr and an exit code:

    0 done   1 a bug   2 usage or config   3 artifact or data   4 environment   5 numerical
    130 interrupted   143 terminated
"""

from __future__ import annotations

from pathlib import Path


class RgsError(Exception):
    """An error that a user can act on.

    what: one sentence, what is wrong. where: the file, field or option. fix: what to do about it. Where an error has
    nothing better to say, a person is told the `place` and the `advice` of its kind.
    """

    exit_code = 1
    place: str | None = None
    advice: str | None = None

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "\n".join(parts)


class ConfigError(RgsError):
    """A wrong option, config value or combination of them."""

    exit_code = 2
    place = "the command line and its config"
    advice = "see the command's --help; `rgs show system NAME` lists settings"


class DataError(RgsError):
    """A dataset, image, layout or annotation that cannot be used."""

    exit_code = 3
    advice = "mend, replace or remove it; `rgs data check` names all faults of a dataset"


class ArtifactError(RgsError):
    """An artifact that is missing, incomplete, damaged or made for something else."""

    exit_code = 3
    advice = "name another, copy it again from where it came from, or make it again"


class EnvironmentFault(RgsError):
    """Something this machine lacks: weights, a device, an extra, disk space, a free lock."""

    exit_code = 4


class NumericalError(RgsError):
    """A loss or score that is not finite."""

    exit_code = 5
