"""The command line: arguments in, results out on standard output, progress on standard error.

No logic lives here. Heavy imports (torch, matplotlib) wait until a command needs them, so that
`--help`, the lists and a mistyped flag answer at once.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from . import __version__
from .errors import ResightError, UsageError

if TYPE_CHECKING:
    from .experiment import Run
    from .preparation import Watch
    from .progress import ProgressLines

app = App(
    name="resight",
    version=__version__,
    help="Train small image classifiers fast, and see why they err.",
    help_format="plaintext",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Show:
    """How results are shown."""

    quiet: bool = False
    "No progress, only the result."
    json: bool = False
    "The result as JSON on standard output."


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where to compute and how to find data."""

    device: str = "auto"
    "auto, cpu, cuda, cuda:N or mps."
    offline: bool = False
    "Never download."
    skip_unreadable: bool = False
    "Leave out pictures that cannot be read, and say so."


Setting = Annotated[
    list[str] | None, Parameter(name="--set", negative="", help="A knob: schedule.epochs=40.")
]


@app.command
def train(
    recipe: str,
    /,
    *,
    data: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    precision: str | None = None,
    set_: Setting = None,
    out: Path = Path("runs"),
    name: str | None = None,
    force: bool = False,
    deterministic: bool = False,
    dry_run: bool = False,
    where: Where = Where(),
    show: Show = Show(),
) -> int:
    """Train by a recipe, then read the test set once.

    Parameters
    ----------
    recipe
        A name (see `resight recipes`) or a .toml file.
    data
        A name (see `resight data`) or a path: a folder per class, Parquet, CIFAR files, .npz.
    epochs
        Stretch or shrink the whole schedule to this many epochs.
    batch_size
        Images a step.
    lr
        The highest learning rate of the schedule.
    seed
        Decides weights, order, augmentation, dropout and the validation split.
    precision
        float32, bf16 or fp16.
    out
        Where run folders are made.
    name
        The run folder's name; by default time and recipe.
    force
        Replace a run folder of that name.
    deterministic
        Refuse operations whose result varies between runs on a GPU.
    dry_run
        Check recipe and data, print the resolved recipe, and stop.
    """
    from . import experiment
    from .preparation import begin, use_deterministic
    from .presets import find_recipe
    from .recipe_text import to_toml, with_epochs, with_overrides

    flags = {
        "data.source": data,
        "training.batch_size": batch_size,
        "optimizer.lr": lr,
        "seed": seed,
        "training.precision": precision,
    }
    asked = find_recipe(recipe)
    if epochs is not None:
        asked = with_epochs(asked, epochs)
    given = [f"{path}={_toml(value)}" for path, value in flags.items() if value is not None]
    asked = with_overrides(asked, [*given, *(set_ or [])])
    if deterministic:
        use_deterministic()
    with _progress(show) as watch:
        if dry_run:
            begun = begin(asked, data=None, model=None, watch=watch, **vars(where))
            print(to_toml(begun.recipe), end="")
            return 0
        run = experiment.train(asked, out=out, name=name, force=force, watch=watch, **vars(where))
    return _report(run, show)


@app.command
def resume(
    run: Path | None = None,
    /,
    *,
    out: Path = Path("runs"),
    where: Where = Where(),
    show: Show = Show(),
) -> int:
    """Go on with a run that was stopped or killed, as if it had not been.

    Parameters
    ----------
    run
        The run folder; by default the newest.
    out
        Where to look for the newest run.
    """
    from . import experiment

    with _progress(show) as watch:
        result = experiment.resume(
            run, out=out, device=where.device, offline=where.offline, watch=watch
        )
    return _report(result, show)


@app.command
def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    where: Where = Where(),
    show: Show = Show(),
) -> int:
    """Ask a run's weights about its test set, or about the test set of other data.

    Parameters
    ----------
    run
        The run folder.
    data
        Other data with the same classes.
    tta
        Test-time augmentation: average over mirrored (and shifted) views.
    """
    from .trained import evaluate as ask

    with _progress(show) as watch:
        found, _ = ask(
            run,
            data=data,
            tta=tta,
            watch=watch,
            **vars(where),
        )
    if show.json:
        print(json.dumps(found))
        return 0
    print(f"{found['data']}: {_accuracy(found)}")
    for pair in found["most_confused"][:3]:
        print(f"  {pair['count']} x {pair['true']} taken for {pair['pred']}")
    print(f"calibration error {found['calibration']['ece']:.3f}; tables in {run / 'evaluation'}/")
    return 0


@app.command
def predict(
    run: Path,
    /,
    *images: Path,
    top: int = 3,
    device: str = "auto",
    show: Show = Show(),
) -> int:
    """What a run's weights see in picture files.

    Parameters
    ----------
    run
        The run folder.
    images
        Picture files.
    top
        How many classes to name.
    device
        auto, cpu, cuda, cuda:N or mps.
    """
    from .trained import predict as ask

    guesses = ask(run, images, device=device)
    if show.json:
        print(json.dumps([{"id": g.id, "classes": dict(g.ranking)} for g in guesses]))
        return 0
    for guess in guesses:
        ranking = ", ".join(f"{name} {prob:.1%}" for name, prob in guess.ranking[:top])
        print(f"{guess.id}: {ranking}")
    return 0


@app.command
def recipes(name: str | None = None, /, *, show: Show = Show()) -> int:
    """List the named recipes, or print one in full.

    Parameters
    ----------
    name
        A recipe: prints its TOML, and why it differs from its base.
    """
    from . import listings

    print(listings.recipe_text(name) if name else listings.recipe_list(as_json=show.json))
    return 0


@app.command
def models(
    name: str | None = None,
    /,
    *,
    set_: Setting = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    show: Show = Show(),
) -> int:
    """List the networks, or print one layer by layer.

    Parameters
    ----------
    name
        A network: prints shape, map size, receptive field, parameters and FLOP of each layer.
    image_size
        Side of the images, in px.
    channels
        1 or 3.
    classes
        How many classes.
    """
    from . import listings

    if name is None:
        print(listings.model_list(as_json=show.json))
    else:
        shape = (channels, image_size, image_size)
        print(listings.model_table(name, set_ or [], shape, classes, as_json=show.json))
    return 0


@app.command
def data(
    source: str | None = None,
    /,
    *,
    preview: Annotated[bool, Parameter(negative="")] = False,
    recipe: str = "base",
    set_: Setting = None,
    out: Path = Path("preview.png"),
    where: Where = Where(),
    show: Show = Show(),
) -> int:
    """List the built-in data sets, or describe one.

    Parameters
    ----------
    source
        A name or a path.
    preview
        Also draw images before and after augmentation.
    recipe
        Whose augmentation to preview.
    out
        The preview's file.
    """
    from . import listings

    if source is None:
        print(listings.source_list(as_json=show.json))
        return 0
    from .look import describe_data

    with _progress(show) as watch:
        found = describe_data(
            source,
            recipe=recipe,
            overrides=set_ or [],
            preview=out if preview else None,
            offline=where.offline,
            skip_unreadable=where.skip_unreadable,
            watch=watch,
        )
    print(json.dumps(found) if show.json else listings.data_text(found))
    return 0


@app.command
def demo(*, out: Path = Path("runs"), show: Show = Show()) -> int:
    """Train and evaluate on the bundled digits: the whole path in well under a minute.

    Parameters
    ----------
    out
        Where run folders are made.
    """
    from . import experiment

    with _progress(show) as watch:
        run = experiment.demo(out=out, watch=watch)
    return _report(run, show)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 ok, 1 failure, 2 usage, 130 interrupted.

    `--debug` anywhere shows the traceback of a failure.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
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
        return 128 + signal.SIGPIPE


def _progress(show: Show) -> "ProgressLines | nullcontext[Watch]":
    if show.quiet:
        return nullcontext(lambda event: None)
    from rich.console import Console

    from .progress import ProgressLines

    return ProgressLines(Console(stderr=True))


def _report(run: "Run", show: Show) -> int:
    if show.json:
        print(
            json.dumps({"folder": str(run.folder), "interrupted": run.interrupted, **run.summary})
        )
    elif run.summary["test"]:
        print(f"test accuracy {_accuracy(run.summary['test'])}")
        print(f"weights of epoch {run.summary['best_epoch']}, by {run.summary['selected_by']}")
        print(f"run folder {run.folder}/")
        pictures = sorted(path.name for path in run.folder.glob("*.png"))
        print(f"pictures   {' '.join(pictures)}")
    if run.interrupted:
        print(f"stopped; go on with: resight resume {run.folder}", file=sys.stderr)
        return 130
    return 0


def _accuracy(found: dict[str, Any]) -> str:
    a = found["accuracy"]
    return (
        f"{a['value']:.2%} (95 % interval {a['low']:.2%} to {a['high']:.2%}, n = {a['n']:,}), "
        f"loss {found['loss']:.3f}"
    )


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


if __name__ == "__main__":
    sys.exit(main())
