"""`python -m resight` is `resight`."""

import sys

from resight.cli.interrupt import interrupt_in_one_line


def run_command() -> int:
    """Run the command line, in which Ctrl-C is one line from the first import on."""
    interrupt_in_one_line()
    from resight.cli.app import main

    return main()


if __name__ == "__main__":
    sys.exit(run_command())
