"""Errors that a user can act on: one line that says what was wrong, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the reader of the message can correct. The command line prints it and exits with status 2."""


class MissingExtra(UserError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs an optional dependency that is not installed: pip install 'operant[{extra}]'")
        self.extra = extra


class EnvironmentFailure(UserError):
    """An environment kept raising, hanging or crashing, beyond the number of restarts allowed."""


def near(word: str, choices: Iterable[str], limit: int = 5) -> str:
    """`" Did you mean a, b?"` for the choices closest to `word` (case is ignored), or `""` if none is close."""
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(choice.lower(), choice)
    found = difflib.get_close_matches(word.lower(), folded, n=limit, cutoff=0.6)
    return f" Did you mean {', '.join(folded[f] for f in found)}?" if found else ""


def check_options(what: str, options: Iterable[str], valid: Iterable[str]) -> None:
    """Raise UserError if `options` holds a name that is not in `valid`; the message lists the valid ones."""
    valid = sorted(valid)
    for option in options:
        if option not in valid:
            hint = near(option, valid, 3)
            raise UserError(f"{what} has no option {option!r}.{hint} Its options: {', '.join(valid)}.")
