"""What can go wrong, as one line a person can act on."""

import difflib
from collections.abc import Iterable


class ResightError(Exception):
    """The work could not be done; the message is one line that says why and what to do."""

    exit_code = 1


class UsageError(ResightError, ValueError):
    """What was asked for is wrong: the message names the value, what is valid and the mend."""

    exit_code = 2


class Diverged(ResightError):
    """Training broke down: the loss became NaN, infinite or far larger than at the start."""


def suggest(word: str, valid: Iterable[str]) -> str:
    """`; did you mean "x"?` where one of `valid` is near, else nothing."""
    near = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
