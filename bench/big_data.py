"""A data set that does not fit into memory: what its cache, its first step and its steps cost.

    python bench/big_data.py --images 1280000     # of 64 px; it needs 36 GB of disk

It writes JPEGs into Parquet, builds the cache from them, and trains a few steps, once from the
cache and once with the same images in memory. Each part is a process of its own, so that its peak
memory is known, and that of its imports. The steps of both sides are taken in turn, round by round.
Everything is written below `--folder`, and removed at the end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import resight
from measure import in_turn, machine, parsed, ratio, spread
from resight.datasets.dataset import Split
from resight.events import StepDone
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.setup import TrainSetup, prepare
from resight.training.state import init_state

PX, CLASSES = 64, 1000
NUM_DISTINCT = 4096  # JPEGs, which repeat: it is their number that counts here, and no one looks
SHARD = 100_000  # rows of a file
RECIPE = "swift-s"
SETTINGS = [
    "model.widths=[8,8,8]",  # a step costs little, so that reading would show
    "training.batch_size=512",
    "training.micro_batch=none",
    "training.precision=float32",
    "data.val_fraction=0.1",
    "explain.report=false",
]


def write_source(folder: Path, count: int) -> int:
    """Write Parquet shards of JPEGs in the hub's layout; return their bytes."""
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(NUM_DISTINCT):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((PX, PX), Image.Resampling.BICUBIC)
        image.save(buffer := BytesIO(), "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    number = -(-count // SHARD)
    for shard in range(number):
        rows = range(shard * SHARD, min(count, (shard + 1) * SHARD))
        pictures = [{"bytes": jpegs[row % NUM_DISTINCT], "path": None} for row in rows]
        labels = [row % CLASSES for row in rows]
        table = pa.table({"image": pictures, "label": labels})
        pq.write_table(table, folder / f"train-{shard:05}-of-{number:05}.parquet")
    return sum(path.stat().st_size for path in folder.iterdir())


def peak_bytes() -> int:
    """Return the peak memory of this process; `getrusage` has that of its parent in it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def build(source: Path) -> dict[str, float]:
    """Read the source, which builds the cache."""
    imported, began = peak_bytes(), time.perf_counter()
    dataset = resight.data(source)
    secs = {"secs": time.perf_counter() - began, "cpu_secs": time.process_time()}
    return {"images": len(dataset.train) + len(dataset.test), **secs, **peaks(imported)}


def train(source: Path, steps: float, began: float) -> dict[str, float]:
    """Take a few steps as `resight train` does; `began` is when the process was started."""
    imported = peak_bytes()
    setup = prepared(source)
    first: dict[str, float] = {}
    for event in fit(setup.state, setup.recipe, setup.splits):
        assert isinstance(event, StepDone)
        if not first:
            first = {"first_step_secs": time.time() - began, "cpu_secs": time.process_time()}
        if event.step == steps:
            break
    return {**first, **peaks(imported)}


def compare(source: Path, steps: float, rounds: float) -> dict[str, Any]:
    """Time steps on images from all over the cache, and on the same ones in memory, in turn."""
    setup = prepared(source)
    size = setup.recipe.training.batch_size
    part = setup.splits.train.select(torch.randperm(len(setup.splits.train))[: int(steps) * size])
    copy = Split(part.images.clone(), part.labels, part.ids)

    cpu_secs: dict[str, list[float]] = {"cache": [], "memory": []}

    def side(name: str, train: Split) -> float:
        recipe, data = setup.recipe, replace(setup.splits, train=train)
        state = init_state(recipe, setup.splits, init_model(recipe, setup.splits))
        began, cpu = time.perf_counter(), time.process_time()
        for event in fit(state, recipe, data):
            assert isinstance(event, StepDone)
            if event.step == steps:
                break
        cpu_secs[name].append(time.process_time() - cpu)
        return steps * size / (time.perf_counter() - began)

    sides = {"cache": lambda: side("cache", part), "memory": lambda: side("memory", copy)}
    figures = in_turn(sides, int(rounds), lambda line: None)
    speeds = {name: spread(values) for name, values in figures.items()}
    cpu = ratio(cpu_secs["cache"][1:], cpu_secs["memory"][1:])  # after the round that warms up
    return {**speeds, "ratio": ratio(figures["cache"], figures["memory"]), "ratio_of_cpu_secs": cpu}


def prepared(source: Path) -> TrainSetup:
    recipe = resight.with_overrides(resight.load_recipe(RECIPE), SETTINGS)
    return prepare(
        recipe,
        data=source,
        model=None,
        device="cpu",
        offline=True,
        on_event=lambda event: None,
    )


def peaks(imported: int) -> dict[str, float]:
    return {"peak": peak_bytes(), "above_import": peak_bytes() - imported}


def in_child(part: str, source: Path, *numbers: float) -> dict[str, float]:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, __file__, "--busy", "--part", part, "--folder", str(source)]
    command += ["--numbers", *map(str, numbers)] if numbers else []
    environment = os.environ | {"RESIGHT_CACHE": str(source.parent / "cache")}
    environment |= {"RESIGHT_CACHE_GIB": "inf"}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    print(part, json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--part", choices=["build", "train", "compare"])
    parser.add_argument("--numbers", type=float, nargs="*", default=[])
    args = parsed(parser)
    if args.part:
        print(json.dumps(globals()[args.part](args.folder, *args.numbers)))
        return
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    source = folder / "source"
    source.mkdir()
    try:
        print(machine(), flush=True)
        size = write_source(source, args.images)
        print(f"{args.images:,} JPEGs of {PX} px in {size / 1e9:.1f} GB", flush=True)
        in_child("build", source)
        for _ in range(2):  # the first one measures the colors of all images
            in_child("train", source, args.steps, time.time())
        in_child("compare", source, args.steps, args.rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
