"""The command line: arguments in, results out on standard output, progress on standard error.

No logic lives here. Heavy imports (torch, matplotlib) wait until a command needs them, so that
`--help`, the lists and a mistyped flag answer at once.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from .. import __version__
from ..errors import ResightError, UsageError
from . import doctor as cli_doctor
from . import explain as cli_explain
from . import lists as cli_lists
from . import lr_find as cli_lr
from . import report as cli_report
from . import reproduce as cli_reproduce
from . import runs as cli_runs

app = App(
    name="resight",
    version=__version__,
    help="Train small image classifiers fast, and see why they err.",
    help_format="plaintext",
    help_epilogue="--debug, anywhere, shows the traceback of a failure.",
    default_parameter=Parameter(negative=""),
)
for command in (
    cli_runs.train,
    cli_runs.resume,
    cli_runs.evaluate,
    cli_runs.predict,
    cli_runs.compare,
    cli_explain.explain,
    cli_report.report,
    cli_lists.recipes,
    cli_lists.models,
    cli_lists.data,
    cli_lists.schedule,
    cli_lr.lr_find,
    cli_doctor.doctor,
    cli_reproduce.reproduce,
    cli_runs.demo,
):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 ok, 1 failure, 2 usage, 130 interrupted.

    `--debug` anywhere shows the traceback of a failure.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe may know fewer letters than a terminal
        sys.stdout.reconfigure(errors="replace")
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code or 0
    except (ResightError, CycloptsError) as error:
        if debug:
            traceback.print_exc()
        # cyclopts wraps its messages; a fault is one line
        line = " ".join(str(error).split())
        print(f"resight: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, ResightError) else UsageError.exit_code
    except KeyboardInterrupt:
        print("resight: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, which Windows has no name for
