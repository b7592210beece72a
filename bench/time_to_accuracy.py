"""Minutes from the start of the process to an accuracy: a recipe here against the loops people ran.

    python bench/time_to_accuracy.py --data PATH_OR_NAME --recipe swift-s --accuracy 0.88 --seeds 3

Ours is measured to the end: `resight train` in a fresh process, from its start until it has read
the test set and gone, without the report. The others would take hours, so of each one epoch's time
is measured on a part of it (the loop people write, see step.py) and multiplied by the epochs after
which its own log first shows the accuracy. Theirs is on the original pixels, and by the test set.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import resight
from measure import machine, parsed, spread, write_json
from resight.recipe.presets import PRESETS
from resight.recipe.presets.published import PUBLISHED
from resight.training.setup import make_splits
from step import plain_side, written

ALL_IMAGES = 50_000  # that the projects train on
# airbench's network in the loop people write, in batches of 512; published with 9.9 epochs, to 94 %
# on original pixels.
AIRBENCH = ("swift", ("model.widths=[64,256,256]", "model.activation=gelu"), 9.9)


def train(recipe: str, data: str, seed: int) -> dict[str, Any]:
    """Seconds of a whole process and the test accuracy it ends with."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "resight", "train", recipe, "--data", data, "--json"]
        command += ["--quiet", "--out", out, "--seed", str(seed), "--set", "explain.report=false"]
        command += ["--device", "cpu"]  # as the loops beside it
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        secs = time.perf_counter() - began
    test = json.loads(done.stdout)["test"]
    return {
        "recipe": recipe,
        "data": data,
        "seed": seed,
        "secs": secs,
        "accuracy": test["accuracy"]["value"],
    }


def epoch_secs(recipe: resight.Recipe, data: resight.Dataset, batches: int) -> float:
    """Seconds an epoch of 50,000 images would take in the loop people write."""
    splits = make_splits(recipe, data, torch.device("cpu"))
    rows = torch.arange(batches * recipe.training.batch_size)
    side = plain_side(written(recipe, replace(splits, train=splits.train.select(rows))))
    side()  # warms up
    return ALL_IMAGES / side()


def others(data: resight.Dataset, accuracy: float, batches: int) -> dict[str, dict[str, Any]]:
    """Of each project that got there: epochs by its log, and the time they would take."""
    found = {}
    for name, said in PUBLISHED.items():
        there = [epoch for epoch, value in said.points.items() if value >= accuracy]
        if there:
            secs = epoch_secs(resight.load_recipe(name), data, batches)
            found[name] = {"epochs": min(there), "epoch_secs": secs, "secs": min(there) * secs}
    base, settings, epochs = AIRBENCH
    secs = epoch_secs(
        resight.with_overrides(resight.load_recipe(base), list(settings)), data, batches
    )
    found["airbench94's network and epochs"] = {
        "epochs": epochs, "epoch_secs": secs, "secs": epochs * secs
    }  # fmt: skip
    return found


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, a name or a path")
    parser.add_argument("--recipe", required=True, choices=sorted(PRESETS))
    parser.add_argument("--accuracy", type=float, required=True, help="on test, such as 0.88")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=1, help="that an epoch is measured on")
    parser.add_argument("--runs", type=Path, help="JSON of runs already made; added to")
    asked = parsed(parser)
    where = machine()
    kept = json.loads(asked.runs.read_text()) if asked.runs and asked.runs.exists() else []
    for seed in range(asked.seeds):
        if (asked.recipe, asked.data, seed) not in [
            (r["recipe"], r["data"], r["seed"]) for r in kept
        ]:
            kept.append(train(asked.recipe, asked.data, seed))
            print(kept[-1], file=sys.stderr)
            if asked.runs:
                asked.runs.write_text(json.dumps(kept))
    runs = [run for run in kept if (run["recipe"], run["data"]) == (asked.recipe, asked.data)]
    secs = spread([run["secs"] for run in runs])
    mean = statistics.fmean(run["accuracy"] for run in runs)
    peers = others(resight.data(asked.data), asked.accuracy, asked.batches)
    print("| recipe | epochs | minutes | times ours |\n|---|---|---|---|", file=sys.stderr)
    print(f"| {asked.recipe}: {mean:.2%} | | {secs['median'] / 60:.1f} | 1 |", file=sys.stderr)
    for name, of in sorted(peers.items(), key=lambda item: item[1]["secs"]):
        times = of["secs"] / secs["median"]
        print(f"| {name} | {of['epochs']} | {of['secs'] / 60:.0f} | {times:.1f} |", file=sys.stderr)
    write_json({"machine": where, "runs": runs, "mean_accuracy": mean, "others": peers})


if __name__ == "__main__":
    main()
