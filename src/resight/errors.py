"""The errors that resight raises, each with one line that a person can act on."""

import difflib
from collections.abc import Iterable


class ResightError(Exception):
    """The work cannot be done; the message is one line that says why and what to do."""

    exit_code = 1


class UsageError(ResightError, ValueError):
    """A name, a value or a file is wrong; the message names it, what is valid and the fix."""

    exit_code = 2


class Diverged(ResightError):
    """Training broke down: the loss became NaN, infinite or far larger than at the start."""


def suggest(word: str, valid: Iterable[str]) -> str:
    """Return `; did you mean "x"?` where one of `valid` is close to `word`, else nothing."""
    matches = difflib.get_close_matches(word, list(valid), n=1)
    return f'; did you mean "{matches[0]}"?' if matches else ""
