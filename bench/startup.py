"""Where users wait: until something happens, after the last step, and for how much memory.

    python bench/startup.py --data CIFAR10               # starts, and parts of four runs
    python bench/startup.py --only memory --data CIFAR10 # or --images 200000, which are made up

- starts: fresh processes, in turn: imports, `--help`, `predict` of one picture.
- parts: `resight train` on the digits, on CIFAR-10 (one epoch), on 600 photos made of it, and on
  1,000 classes that are made up; each part in seconds, and in seconds of the processor.
- memory: the peak memory of each command.
Another load makes the seconds longer, and those of the processor hardly.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import resight
from measure import in_turn, machine, parsed, ratio, spread, write_json
from parts import BEGAN, PARTS

SETS = ("digits", "CIFAR-10", "600 photos", "1,000 classes")
NEED_DATA = ("CIFAR-10", "600 photos")
BEFORE = ("Python and imports", "data", "network", "checks")  # the first step
# Modules are compiled once, as they are for users.
ENVIRONMENT = {name: x for name, x in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
Result = dict[str, Any]


def say(line: str) -> None:
    """Show progress where the result does not go."""
    print(line, file=sys.stderr, flush=True)


def run_parts(*arguments: str) -> Result:
    """Run a `resight` command in a process of its own; return its parts and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "parts.json"
        environment = ENVIRONMENT | {BEGAN: str(time.time())}
        command = [sys.executable, str(Path(__file__).with_name("parts.py")), str(out), *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        if (
            done.returncode > 1 or not out.exists()
        ):  # the doctor ends with 1 where it finds something
            sys.exit(f"{' '.join(arguments)}: ended with {done.returncode}")
        result: Result = json.loads(out.read_text(encoding="utf-8"))
        return result


def timed(*arguments: str) -> float:
    """Milliseconds of the processor that a fresh Python process takes, of all threads."""
    before = os.times()
    subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True
    )
    after = os.times()
    return 1000 * (sum(after[2:4]) - sum(before[2:4]))  # of children, user and system


def starts(folder: Path, rounds: int) -> Result:
    """Milliseconds of the processor until a process has started, and `predict` over torch."""
    run, picture = folder / "runs" / "start", folder / "picture.png"
    options = ["--out", str(run.parent), "--name", run.name, "--epochs", "1", "--quiet"]
    options += ["--set", "explain.report=false"]
    if not run.exists():
        timed("-m", "resight", "train", "digits", *options)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(picture)
    figures = in_turn(
        {
            "nothing": lambda: timed("-c", "pass"),
            "import torch": lambda: timed("-c", "import torch"),
            "import resight": lambda: timed("-c", "import resight"),
            "resight --help": lambda: timed("-m", "resight", "--help"),
            "resight predict RUN PICTURE": lambda: timed(
                "-m", "resight", "predict", str(run), str(picture), "--quiet"
            ),
        },
        rounds,
        lambda line: say(f"  {line} ms"),
    )
    over = ratio(figures["resight predict RUN PICTURE"], figures["import torch"])
    return {
        "cpu_ms": {name: spread(values) for name, values in figures.items()},
        "predict_over_import_torch": over,
    }


def write_photos(data: str, folder: Path, count: int = 600) -> Path:
    """Write two classes of a data set as JPEGs of 150 to 300 px, a folder a class."""
    split = resight.data(data).train
    rng = np.random.default_rng(0)
    for label in (3, 5):  # cats and dogs
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        rows = np.flatnonzero(split.labels.numpy() == label)[: count // 2]
        for number, picture in enumerate(split.images[rows].permute(0, 2, 3, 1).numpy()):
            width, height = rng.integers(150, 301, 2)
            image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
            image.save(place / f"{number:04}.jpg", quality=90)
    return folder


def write_arrays(path: Path, *, classes: int, train: int, test: int, px: int) -> Path:
    """Write images of made-up classes, each a pattern of 4 x 4 colors under noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (classes, 4, 4, 3)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("test", test)):
        labels = rng.integers(0, classes, count)
        labels[:classes] = np.arange(classes)[:count]
        images = np.empty((count, px, px, 3), dtype=np.uint8)
        for part in np.array_split(np.arange(count), max(1, count // 10_000)):
            clean = patterns[labels[part]].repeat(px // 4, 1).repeat(px // 4, 2)
            noisy = clean + 40 * rng.standard_normal(clean.shape, dtype=np.float32)
            images[part] = noisy.clip(0, 255)
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def commands(folder: Path, data: str | None, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the arguments of `resight train` for each data set, which is written where it must."""

    def thousand() -> list[str]:
        file = folder / "thousand.npz"
        path = write_arrays(file, classes=1000, train=20_000, test=5_000, px=16)
        changes = ["training.progressive=none", "schedule.peak_epoch=0.75"]
        settings = [part for change in changes for part in ("--set", change)]
        return ["swift-s", "--data", str(path), "--epochs", "3", *settings]

    makers: dict[str, Callable[[], list[str]]] = {
        "digits": lambda: ["digits"],
        "CIFAR-10": lambda: ["swift-s", "--data", str(data), "--epochs", "1"],
        "600 photos": lambda: ["probe", "--data", str(write_photos(str(data), folder / "photos"))],
        "1,000 classes": thousand,
    }
    return {name: makers[name]() for name in names}


def parts(folder: Path, data: str | None, names: Sequence[str]) -> Result:
    """The seconds of each part of a run, for each data set, by the clock and of the processor."""
    results = {}
    for name, arguments in commands(folder, data, names).items():
        say(f"  resight train {' '.join(arguments)}")
        options = ["--out", str(folder / "runs"), "--quiet"]
        results[name] = run_parts("train", *arguments, *options)["parts"]
    return results


def memory(folder: Path, data: str, epochs: int) -> dict[str, float]:
    """The peak memory of each command in bytes; the run has the recipe swift-s."""
    run, picture = folder / "runs" / "memory", folder / "picture.png"
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(picture)
    own = ["--out", str(run.parent), "--name", run.name, "--set", "explain.report=false"]
    steps = {
        "train": ["train", "swift-s", "--data", data, "--epochs", str(epochs), *own],
        "evaluate": ["evaluate", str(run)],
        "explain": ["explain", str(run)],
        "report": ["report", str(run)],
        "labels": ["labels", str(run), "--out", str(folder / "labels")],
        "predict": ["predict", str(run), str(picture)],
        "doctor": ["doctor", "swift-s", "--data", data],
        "lr-find": ["lr-find", "swift-s", "--data", data],
    }
    peaks = {}
    for name, arguments in steps.items():
        peaks[name] = run_parts(*arguments, "--quiet")["peak"]
        say(f"  {name}: {peaks[name] / 1e6:,.0f} MB")
    return peaks


def print_parts(results: Result) -> None:
    """Print a column of seconds of the clock (of the processor) for each data set."""
    say(f"\n| part | {' | '.join(results)} |\n|---{'|---:' * len(results)}|")
    for part in PARTS:
        cells = [f"{row[part]['secs']:.1f} ({row[part]['cpu']:.1f})" for row in results.values()]
        say(f"| {part} | {' | '.join(cells)} |")

    def total(row: Result, names: Sequence[str]) -> str:
        return " ".join(
            f"{sum(row[name][clock] for name in names):.1f}".join(ends)
            for clock, ends in (("secs", ("", "")), ("cpu", ("(", ")")))
        )

    after = [name for name in PARTS if name not in (*BEFORE, "training")]
    for title, names in (("to the first step", BEFORE), ("after the last step", after)):
        cells = [total(row, names) for row in results.values()]
        say(f"| **{title}** | {' | '.join(cells)} |")


def main() -> None:
    """Parse the arguments, measure, print tables and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CIFAR-10, a name or a path")
    parser.add_argument("--only", nargs="+", choices=("starts", "parts", "memory"))
    parser.add_argument("--sets", nargs="+", choices=SETS, help="data sets of the parts")
    parser.add_argument("--images", type=int, help="memory: so many made-up images, not --data")
    parser.add_argument("--epochs", type=int, default=1, help="memory: of the run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary one")
    arguments = parsed(parser)
    only = arguments.only or ("starts", "parts")
    names = arguments.sets or [name for name in SETS if arguments.data or name not in NEED_DATA]
    if not arguments.data and set(names) & {*NEED_DATA}:
        sys.exit(f"{' and '.join(NEED_DATA)} need --data, which names CIFAR-10")
    result: Result = {"machine": machine()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if "starts" in only:
            result["starts"] = starts(folder, arguments.rounds)
        if "parts" in only:
            result["parts"] = parts(folder, arguments.data, names)
        if "memory" in only:
            data = arguments.data or "digits"
            if arguments.images:
                file, count = folder / "many.npz", arguments.images
                data = str(write_arrays(file, classes=10, train=count, test=count // 20, px=32))
            result["memory"] = memory(folder, data, arguments.epochs)
    if "starts" in result:
        say("\n| ms of the processor | median | min | max |\n|---|---:|---:|---:|")
        for name, ms in result["starts"]["cpu_ms"].items():
            row = " | ".join(f"{ms[key]:.0f}" for key in ("median", "min", "max"))
            say(f"| {name} | {row} |")
    if "parts" in result:
        print_parts(result["parts"])
    if "memory" in result:
        say("\n| command | peak memory |\n|---|---:|")
        for name, peak in result["memory"].items():
            say(f"| {name} | {peak / 1e6:,.0f} MB |")
    write_json(result)


if __name__ == "__main__":
    main()
