"""What can go wrong, as one line a person can act on."""


class ResightError(Exception):
    """The work could not be done; the message is one line that says why and what to do."""

    exit_code = 1


class UsageError(ResightError, ValueError):
    """What was asked for is wrong: the message names the value, what is valid and the mend."""

    exit_code = 2


class Diverged(ResightError):
    """Training broke down: the loss became NaN, infinite or far larger than at the start."""
