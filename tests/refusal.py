"""Bad input is refused by an error with a message of one line."""

import re
from contextlib import AbstractContextManager

import pytest

from resight.errors import ResightError, UsageError


def refused(
    text: str, error: type[ResightError] = UsageError
) -> AbstractContextManager[pytest.ExceptionInfo[ResightError]]:
    """Return a context that expects `error`, with one line that contains `text`."""
    return pytest.raises(error, match=rf"\A.*{re.escape(text)}.*\Z")
