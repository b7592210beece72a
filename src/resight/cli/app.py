"""The command line: arguments in, results out on standard output, progress on standard error.

No logic lives here. A command's module is imported when the command is run or its help is shown,
and torch and matplotlib when the command needs them, so that `--help`, the lists and a mistyped
flag answer at once.
"""

import io
import sys
import time
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from .. import __version__
from ..errors import ResightError, UsageError, is_memory_full
from ..text import printable
from .interrupt import INTERRUPTED, interrupt_in_one_line
from .streams import (
    discard_output,
    flush_output,
    is_follower,
    open_closed_streams,
    show_problem,
)

FOLLOWER_SECS = 5
READER_GONE = 141  # 128 + SIGPIPE, which Windows has no name for

HELP = """Train small image classifiers fast, and see why they err.

For a start:

  resight train digits

  resight train swift --data cifar10 --set schedule.epochs=20"""

# Group -> command -> (module, first line of its help): so the list of commands needs none of the
# modules. The order is that of the work.
GROUPS = {
    "Start": {
        "demo": (
            "train",
            "Train on the bundled digits and explain the mistakes, in under a minute.",
        ),
        "data": ("data", "List the built-in data sets, or say how one was read."),
        "recipes": (
            "recipes",
            "List, show and compare the named recipes, and estimate their cost.",
        ),
        "models": ("models", "List the networks, or show one layer by layer."),
    },
    "Train": {
        "doctor": (
            "doctor",
            "Look for errors that do not stop a training: in a recipe and its data, or in a run.",
        ),
        "lr-find": ("lr_find", "Find the learning rate by a range test, and judge the result."),
        "schedule": (
            "schedule",
            "Draw the learning rate and momentum of a run before it is trained.",
        ),
        "train": ("train", "Train by a recipe, then read the test set once."),
        "resume": ("train", "Go on with a run that was stopped, as if it had not been."),
        "sweep": (
            "sweep",
            "Search for better settings of a recipe, then train the best and test it.",
        ),
        "reproduce": (
            "reproduce",
            "Train a published project again, and compare the accuracies.",
        ),
    },
    "Understand": {
        "evaluate": ("evaluate", "Evaluate a run on its test images, or on other data."),
        "explain": ("explain", "Show a run's mistakes, heat maps and label issues."),
        "report": ("report", "Write a run's report.html, one page, from the run folder alone."),
        "compare": ("compare", "Compare runs: accuracies, recipes, and images that flipped."),
        "labels": (
            "labels",
            "Find training labels that are likely wrong, and mark them in a page.",
        ),
    },
    "Use": {
        "predict": ("evaluate", "Predict the classes of picture files by a run's weights."),
        "serve": (
            "serve",
            "Show a local page where you drop pictures and see what a run makes of them.",
        ),
        "export": (
            "export",
            "Write a run's network for use without resight: as ONNX, as pt2, or for the hub.",
        ),
    },
}
COMMANDS = {name: entry for commands in GROUPS.values() for name, entry in commands.items()}


app = App(
    name="resight",
    version=__version__,
    help=HELP,
    help_format="plaintext",
    group_commands=Group("Other", sort_key=len(GROUPS)),
    suppress_keyboard_interrupt=False,  # it would be silent
    help_epilogue="--debug, anywhere, shows the traceback of a failure.",
    default_parameter=Parameter(
        negative="", show_default=lambda value: None if value is False else value
    ),
)
for place, (title, commands) in enumerate(GROUPS.items()):
    group = Group(title, sort_key=place)
    for order, (name, (module, summary)) in enumerate(commands.items()):
        path = f"resight.cli.{module}:{name.replace('-', '_')}"
        app.command(path, name=name, help=summary, group=group, sort_key=order)
app.register_install_completion_command(help="Install completion for your shell.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 ok, 1 failure, 2 usage, 130 interrupted.

    `--debug` anywhere shows the traceback of a failure.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    if is_follower() and not {"train", "resume", "demo"} & {*tokens[:1]}:
        return 0  # torchrun starts every command several times; one does it
    interrupt_in_one_line()
    is_closed = open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe may know fewer letters than a terminal
        sys.stdout.reconfigure(errors="replace")
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        flush_output(is_closed=is_closed)
        return code or 0
    except KeyboardInterrupt as error:
        show_problem(f"interrupted {error}")
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        code = READER_GONE
    except Exception as error:
        if (failure := _line_and_code(error)) is None:
            raise
        if debug:
            print(printable(traceback.format_exc()), file=sys.stderr)
        line, code = failure
        if is_follower():  # torchrun ends it first if the first process has the same problem
            time.sleep(FOLLOWER_SECS)
        show_problem(line)
    discard_output()
    return code


def _line_and_code(error: Exception) -> tuple[str, int] | None:
    """The line for a person and the exit code; None: the error is a fault of resight itself."""
    if isinstance(error, ResightError):
        return str(error), error.exit_code
    if isinstance(error, CycloptsError):
        return str(error), UsageError.exit_code
    if is_memory_full(error):
        line = "the memory of this machine is full; close other programs, or give fewer or "
        return f"{line}smaller images (data.image_size)", UsageError.exit_code
    if isinstance(error, OSError):  # of a disk, a folder or a network, which the line names
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", ResightError.exit_code
    return None
