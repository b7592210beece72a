"""Seconds to an accuracy on one GPU: `swift-gpu` against airbench94 from its own package.

    python -m pip install airbench torchvision        # beside a torch that fits the GPU
    python bench/gpu.py --data PATH_OR_NAME           # CIFAR-10 in any layout
    python bench/gpu.py --ranks                       # training on all GPUs, over NCCL; not yet run

Both train on the same 50,000 images, which lie on the GPU before the clock starts, and end with
the accuracy on the test images, six views each. Theirs is timed by its own clock, ours by the
wall, from the first weight to the last prediction; sides in turn, after a round to warm up. Then,
ours alone: the share of the device's matrix speed, images/s over the loop people write, and a
whole cold `resight train`.
"""

import argparse
import contextlib
import io
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import distributed
import resight
from measure import in_turn, machine, optional, parsed, ratio, spread, write_json
from resight.events import EpochDone
from resight.metrics.classification import accuracy
from resight.training.cost import cost
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.predict import predict_split
from resight.training.setup import make_splits
from resight.training.state import init_state
from step import plain_side, written

RECIPE = "swift-gpu"
ALL_IMAGES = ["data.val_fraction=none", "training.select=last"]
SIDE = 8192  # of the matrices whose product is the device's speed
Run = tuple[float, float]  # seconds, test accuracy


def ours(recipe: resight.Recipe, data: resight.Dataset, device: torch.device) -> Callable[[], Run]:
    """A whole training and the test set, data on the device before the clock starts."""
    splits = make_splits(recipe, data, device)
    test = data.test.to(device)
    seed = 0

    def run() -> Run:
        nonlocal seed
        seed += 1
        seeded = resight.with_overrides(recipe, [f"seed={seed}"])
        torch.cuda.synchronize()
        began = time.perf_counter()
        state = init_state(seeded, splits, init_model(seeded, splits))
        for _ in fit(state, seeded, splits):
            pass
        predictions = predict_split(
            state.evaluated,
            test,
            splits.stats,
            classes=splits.classes,
            training=seeded.training,
            evaluation=seeded.evaluation,
        )  # ends on the CPU, so the device is done
        return time.perf_counter() - began, accuracy(predictions).value

    return run


def airbench(data: resight.Dataset, folder: Path) -> Callable[[], Run] | None:
    """airbench94 of the package, on the same images; it reads them from the working directory."""
    if (package := optional("airbench")) is None:
        return None
    (folder / "cifar10").mkdir()
    for name, split in (("train", data.train), ("test", data.test)):
        content = {
            "images": split.images.permute(0, 2, 3, 1).contiguous(),  # (N, H, W, C) uint8
            "labels": split.labels,
            "classes": list(data.classes),
        }
        torch.save(content, folder / "cifar10" / f"{name}.pt")

    torch.backends.cudnn.benchmark = False  # importing it has set this for our side too

    def run() -> Run:
        said = io.StringIO()
        autotuned = torch.backends.cudnn.flags(enabled=True, benchmark=True)
        with autotuned, contextlib.chdir(folder), contextlib.redirect_stdout(said):
            package.train94()
        return figures(said.getvalue())

    return run


def figures(said: str) -> Run:
    """Seconds and accuracy from the last table row that airbench prints."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    last = next(row for row in reversed(rows) if len(row) == 7 and row[1] == "eval")
    return float(last[6]), float(last[5])


def matrix_speed(device: torch.device) -> float:
    """FLOP/s of a large bf16 matrix product, the best of ten."""
    a = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
    secs = []
    for _ in range(11):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        secs.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(secs[1:])


def speeds(recipe: resight.Recipe, data: resight.Dataset, device: torch.device) -> dict[str, float]:
    """images/s: our epochs after the first, and an epoch of the loop people write."""
    splits = make_splits(recipe, data, device)
    state = init_state(recipe, splits, init_model(recipe, splits))
    rows = [e.row for e in fit(state, recipe, splits) if isinstance(e, EpochDone)]
    on_cpu = make_splits(recipe, data, torch.device("cpu"))
    its = written(resight.with_overrides(recipe, ["training.batch_size=512"]), on_cpu)
    its.model.to(device)  # in place: the optimizer holds the same weights
    return {
        "resight": statistics.median(row.images_per_sec for row in rows[1:]),
        "plain loop": plain_side(its)(),
    }


def cold_start(data: str) -> float:
    """Seconds of `resight train` in a fresh process, installation and data cache warm."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "resight", "train", RECIPE, "--data", data, "--quiet"]
        command += ["--out", out, "--set", "explain.report=false"]
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began


def several_gpus() -> dict[str, Any]:
    """What `bench/distributed.py` finds on all GPUs of this machine."""
    count = torch.cuda.device_count()
    if count < 2:
        sys.exit(f"--ranks needs two GPUs, and torch finds {count}")
    with tempfile.TemporaryDirectory() as folder:
        place = (Path(folder), count, "cuda")
        return {
            "gpus": count,
            "difference_from_one_gpu": distributed.equal(*place),
            "kills": distributed.kills(*place, times=5, rng=random.Random(0)),
            "stops": distributed.stops(*place),
        }


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, a name or a path")
    parser.add_argument("--ranks", action="store_true", help="check several GPUs instead")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compiled", action="store_true", help="a side with training.compile too")
    asked = parsed(parser)
    if asked.rounds < 2:
        sys.exit(f"--rounds {asked.rounds}: a deviation needs at least 2")
    if not torch.cuda.is_available():
        sys.exit("this bench needs a CUDA device, and torch finds none")
    if asked.ranks:
        write_json(several_gpus())
        return
    device = torch.device("cuda")
    data = resight.data(asked.data)
    recipe = resight.with_overrides(resight.load_recipe(RECIPE), ALL_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], Run] | None] = {
            "resight": ours(recipe, data, device),
            "airbench94": airbench(data, Path(folder)),
        }
        if asked.compiled:
            compiled = resight.with_overrides(recipe, ["training.compile=true"])
            runs["resight, compiled"] = ours(compiled, data, device)
        found: dict[str, list[float]] = {name: [] for name in runs}

        def side(name: str, run: Callable[[], Run]) -> Callable[[], float]:
            def secs() -> float:
                seconds, right = run()
                found[name].append(right)
                return seconds

            return secs

        sides = {name: side(name, run) for name, run in runs.items() if run is not None}
        secs = in_turn(sides, asked.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    results: dict[str, Any] = {
        name: {
            "secs": spread(values),
            "accuracy": statistics.fmean(found[name][1:]),  # the first round is no figure
            "deviation": statistics.stdev(found[name][1:]),
            "times_airbench": ratio(values, secs["airbench94"]) if "airbench94" in secs else None,
        }
        for name, values in secs.items()
    }
    speed = matrix_speed(device)
    images = speeds(recipe, data, device)
    work = cost(recipe)
    share = work.run_flop / work.images * images["resight"] / speed
    print("| side | seconds | accuracy | deviation |\n|---|---|---|---|", file=sys.stderr)
    for name, row in results.items():
        cells = f"{row['secs']['median']:.2f} | {row['accuracy']:.2%} | {row['deviation']:.2%}"
        print(f"| {name} | {cells} |", file=sys.stderr)
    write_json(
        {
            "device": torch.cuda.get_device_name(),
            "machine": machine(),
            "rounds": asked.rounds,
            "sides": results,
            "bf16_matmul_tflops": speed / 1e12,
            "share_of_that_in_an_epoch": share,
            "images_per_sec": images,
            "cold_start_secs": cold_start(asked.data),
        }
    )


if __name__ == "__main__":
    main()
