"""The published projects in one call: every recipe run, in a time limit, and a table of what came.

    python bench/reproduce.py --data PATH --out runs                              # in full, a GPU
    python bench/reproduce.py --data PATH --out scaled --images 10000 --share 0.25       # two cores

Called again with the same `--out` it goes on: finished recipes are kept, stopped ones are resumed.
On a GPU the recipes run in mixed precision, two at a time, so that one feeds the device while the
other waits for Python. At `--limit` seconds all are asked to stop where they are, and killed if
they do not, which costs the epoch under way. `--out` gets a folder a recipe (`resight reproduce`),
its log, `table.md` and `table.json`.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import resight
from measure import machine
from resight.errors import UsageError
from resight.experiment.many_runs import reproduce
from resight.files import write_text
from resight.recipe.presets.published import PUBLISHED, VARIANTS, get_published

# The shortest first, so that a limit leaves as much finished as it can.
ORDER = (
    "resnet9-onecycle",
    "superconvergence",
    "superconvergence-decay",
    "resnet18-onecycle",
    "resnet18-layernorm",
    "resnet18-sgd-plateau",
    "resnet18-plateau",
    "resnet18-layernorm-lr0.1",
)
assert set(ORDER) == {*PUBLISHED, *VARIANTS}
GRACE = 45.0  # seconds to finish a step, save and draw after being asked to stop
AGAIN = 20.0  # seconds until one that has not stopped is asked again


def part_of(data: str, images: int | None) -> resight.Dataset:
    """The data with a fixed part of its training images."""
    dataset = resight.data(data)
    if images is None:
        return dataset
    rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    return replace(dataset, train=dataset.train.select(rows[:images]))


def run_one(asked: argparse.Namespace) -> int:
    """One recipe, in this process; 130 when it was stopped."""
    recipe = resight.load_recipe(asked.one)
    done = reproduce(
        asked.one,
        data=part_of(asked.data, asked.images),
        seeds=asked.seeds,
        epochs=None if asked.share == 1 else max(1, round(asked.share * recipe.schedule.epochs)),
        out=asked.out,
        on_event=say,
    )
    return 130 if done.interrupted else 0


def say(event: object) -> None:
    """A line an epoch."""
    row = getattr(event, "row", None)
    if row is not None:
        print(
            f"epoch {row.epoch}: validation {row.val_accuracy}, {row.train_secs:.0f} s", flush=True
        )


def run_all(asked: argparse.Namespace) -> list[str]:
    """Every recipe that is asked for, `--jobs` at a time, until the limit; those that failed."""
    asked.out.mkdir(parents=True, exist_ok=True)
    kill_at = time.monotonic() + asked.limit
    stop_at = ask_at = kill_at - GRACE
    waiting, failed = list(asked.recipes), []
    running: dict[str, subprocess.Popen[bytes]] = {}
    same = ["--data", asked.data, "--out", str(asked.out), "--seeds", str(asked.seeds)]
    same += ["--share", str(asked.share)]
    same += ["--images", str(asked.images)] if asked.images else []
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            name = waiting.pop(0)
            with (asked.out / f"{name}.log").open("ab") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, __file__, "--one", name, *same], stdout=log, stderr=log
                )
            print(f"{name} begins", file=sys.stderr, flush=True)
        for name, process in list(running.items()):
            if (code := process.poll()) is not None:
                print(f"{name} ends with exit code {code}", file=sys.stderr, flush=True)
                del running[name]
                if code not in (0, 130) and time.monotonic() < stop_at:
                    failed.append(name)
                write_table(asked)
        if time.monotonic() > ask_at:
            waiting.clear()
            for process in running.values():  # a step is finished, the state is saved
                process.send_signal(signal.SIGINT)
            ask_at += AGAIN  # one that was drawing figures goes on to what comes next
        if time.monotonic() > kill_at:
            for process in running.values():
                process.kill()
        time.sleep(0.5)
    write_table(asked)
    return failed


def write_table(asked: argparse.Namespace) -> None:
    """What is finished so far."""
    rows = [row for name in ORDER for row in rows_of(asked.out / name, name)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    content = {"device": device, "machine": machine(), "rows": rows}
    write_text(asked.out / "table.json", json.dumps(content, indent=2))
    lines = [
        "| recipe | published | reached, test | best epoch | epochs | images | training |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        a = row["accuracy"]
        lines.append(
            f"| `{row['recipe']}`, seed {row['seed']} | {row['published']:.2%} "
            f"| {a['value']:.2%} ({a['low']:.2%} to {a['high']:.2%}) | {row['best_epoch']} "
            f"| {row['epochs']} | {row['images']:,} | {row['train_secs']:,.0f} s |"
        )
    write_text(asked.out / "table.md", "\n".join(lines) + "\n")


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """A row for each finished seed of a recipe."""
    rows = []
    for path in sorted(folder.glob("seed*/summary.json")):
        run = resight.Run.open(path.parent)
        if run.summary is not None and run.summary.test is not None:
            rows.append(
                {
                    "recipe": name,
                    "seed": run.recipe.seed,
                    "published": get_published(name).accuracy,
                    "accuracy": asdict(run.test.accuracy),
                    "best_epoch": run.summary.best_epoch,
                    "epochs": run.summary.epochs,
                    "images": run.summary.data.train,
                    "train_secs": run.summary.train_secs,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--out", type=Path, required=True, help="a folder, added to")
    parser.add_argument("--recipes", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, help="so many training images, held out included")
    parser.add_argument("--share", type=float, default=1.0, help="of each recipe's epochs")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds")
    jobs = 2 if torch.cuda.is_available() else 1
    parser.add_argument("--jobs", type=int, default=jobs, help="recipes at a time")
    parser.add_argument("--one", choices=ORDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        if asked.one:
            sys.exit(run_one(asked))
        failed = run_all(asked)
    except UsageError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)  # a child says so in its log; what is finished stays
    print((asked.out / "table.md").read_text(encoding="utf-8"))
    if failed:
        sys.exit(f"failed, see their logs in {asked.out}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
