"""The commands that train a network or ask a trained one."""

import json
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from .options import (
    DataOptions,
    Device,
    Devices,
    OutputOptions,
    SetOption,
    accuracy_text,
    print_run,
    progress,
)


def train(
    recipe: str,
    /,
    *,
    data: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    find_lr: bool = False,
    repeats: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    set_: SetOption = None,
    out: Path = Path("runs"),
    name: str | None = None,
    force: bool = False,
    deterministic: bool = False,
    dry_run: bool = False,
    device: Device = "auto",
    devices: Devices = 1,
    find: DataOptions = DataOptions(),
    show: OutputOptions = OutputOptions(),
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
    find_lr
        Look for that rate by a range test first (see `resight lr-find`).
    repeats
        Range tests of --find-lr; the median counts. One test can be off by a factor of 2.
    seed
        Decides weights, order, augmentation, dropout and the validation split.
    precision
        float32, bf16, fp16 or auto.
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
    from ..recipe.presets import load_recipe
    from ..recipe.sources import find_source
    from ..recipe.toml import to_toml, unflatten, with_changes, with_epochs, with_overrides

    flags = {
        "data.source": data,
        "data.skip_unreadable": find.skip_unreadable or None,
        "training.batch_size": batch_size,
        "training.precision": precision,
        "training.deterministic": deterministic or None,
        "optimizer.lr": lr,
        "seed": seed,
    }
    by_hand = [f"--lr {lr:g}"] if lr is not None else []
    by_hand += [f"--set {text}" for text in set_ or [] if text.startswith("optimizer.lr=")]
    if find_lr and (by_hand or dry_run):
        other = by_hand[0] if by_hand else "--dry-run"
        raise UsageError(f"--find-lr and {other} contradict each other; give one of them")
    if repeats is not None and not find_lr:
        raise UsageError(f"--repeats {repeats} is of --find-lr; give both or neither")
    asked = load_recipe(recipe)
    if epochs is not None:
        asked = with_epochs(asked, epochs)
    given = unflatten((path, value) for path, value in flags.items() if value is not None)
    asked = with_overrides(with_changes(asked, given, origin="flags"), set_ or [])
    find_source(asked.data.source)

    from .. import experiment  # torch: only now that the request makes sense
    from ..lr_finder.find import LRRangeOptions
    from ..training.device import check_devices
    from ..training.setup import prepare

    offline = find.offline
    with progress(show) as on_event:
        if dry_run:
            device = check_devices(device, devices, batch_size=asked.training.batch_size)
            setup = prepare(
                asked, data=None, model=None, device=device, offline=offline, on_event=on_event
            )
            print(to_toml(setup.recipe), end="")
            return 0
        run = experiment.train(
            asked,
            out=out,
            name=name,
            force=force,
            find_lr=find_lr and LRRangeOptions(repeats=repeats or 1),
            device=device,
            devices=devices,
            offline=offline,
            on_event=on_event,
        )
    return print_run(run, show)


def resume(
    run: Path | None = None,
    /,
    *,
    out: Path = Path("runs"),
    device: Device = "auto",
    devices: int | None = None,
    offline: bool = False,
    show: OutputOptions = OutputOptions(),
) -> int:
    """Go on with a run that was stopped or killed, as if it had not been.

    Parameters
    ----------
    run
        The run folder; by default the newest.
    out
        Where to look for the newest run.
    devices
        How many share each batch; by default as many as the run was begun on.
    offline
        Never download.
    """
    from .. import experiment

    with progress(show) as on_event:
        result = experiment.resume(
            run, out=out, device=device, devices=devices, offline=offline, on_event=on_event
        )
    return print_run(result, show)


def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: Device = "auto",
    find: DataOptions = DataOptions(),
    show: OutputOptions = OutputOptions(),
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
    from ..runs.inference import evaluate as ask

    with progress(show) as on_event:
        found, _ = ask(run, data=data, tta=tta, device=device, on_event=on_event, **vars(find))
    if show.json:
        print(json.dumps(found))
        return 0
    print(f"{found['data']}: {accuracy_text(found)}")
    for pair in found["most_confused"][:3]:
        print(f"  {pair['count']} x {pair['true']} taken for {pair['pred']}")
    print(f"calibration error {found['calibration']['ece']:.3f}")
    print(f"tables and pictures in {run / found['folder']}/")
    return 0


def predict(
    run: Path,
    /,
    *images: Path,
    top: int = 3,
    device: Device = "auto",
    show: OutputOptions = OutputOptions(),
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
    """
    from ..runs.inference import predict as ask

    guesses = ask(run, images, device=device)
    if show.json:
        print(json.dumps([{"id": g.id, "classes": dict(g.ranking)} for g in guesses]))
        return 0
    for guess in guesses:
        ranking = ", ".join(f"{name} {prob:.1%}" for name, prob in guess.ranking[:top])
        print(f"{guess.id}: {ranking}")
    return 0


def compare(*runs: Path, out: Path | None = None, show: OutputOptions = OutputOptions()) -> int:
    """Put runs side by side: what they reach, where their recipes differ, which images flipped.

    Parameters
    ----------
    runs
        Run folders; the others are compared with the first.
    out
        Write the images that one has right and another has not: all to a .csv file, or pictures of
        the most telling to a .png or .svg file.
    """
    from ..runs.compare import compare as side_by_side
    from ..runs.flips import check_out, write_flipped

    if out is not None:
        check_out(out)
    found = side_by_side(runs)
    written = write_flipped(found, out) if out else 0
    if show.json:
        print(json.dumps(found.to_dict()))
        return 0
    print(found)
    if out:
        of = len(found.flipped)
        print(f"\n{out}: {written:,} of the {of:,} images that one has right and another has not")
    return 0


def demo(*, out: Path = Path("runs"), show: OutputOptions = OutputOptions()) -> int:
    """Train and evaluate on the bundled digits: the whole path in well under a minute.

    Parameters
    ----------
    out
        Where run folders are made.
    """
    from .. import experiment

    with progress(show) as on_event:
        run = experiment.demo(out=out, on_event=on_event)
    return print_run(run, show)
