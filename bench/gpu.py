"""A first run on a GPU, part by part: is it right, where is the time, how fast to an accuracy.

    python -m pip install airbench torchvision        # beside a torch that fits the GPU
    python bench/gpu.py --data PATH_OR_NAME --out gpu.jsonl      # CIFAR-10 in any layout
    python bench/gpu.py --device cpu --tiny --rounds 2           # the same code without a GPU

A part that fails costs no other part, and each result is a line of JSON, written when it is known.
After `--limit` seconds no part begins. The parts: the losses of a GPU beside those of the CPU; the
kernels of a step; seconds to an accuracy, `swift-gpu` against airbench94 from its own package, in
turn; images/s; a range test; heat maps beside those of the CPU; a whole cold `resight train`; and
with two GPUs or more, training on all of them over NCCL (`--parts ranks` alone does that).

In "accuracy" both sides train on the same 50,000 images, which lie on the GPU before the clock
starts, and end with six views of each test image. Theirs is timed by its own clock, ours by the
wall, from the first weight to the last prediction, after a round to warm up.
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import distributed
import resight
from measure import in_turn, machine, optional, parsed, ratio, spread
from resight.events import EpochDone
from resight.lr_finder.find import LRRangeOptions
from resight.metrics.classification import accuracy
from resight.recipe.toml import with_changes
from resight.training.cost import cost
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.precision import fastest_precision
from resight.training.predict import predict_split
from resight.training.setup import make_splits
from resight.training.state import TrainData, TrainState, init_state
from step import plain_side, written

RECIPE = "swift-gpu"
ALL_IMAGES = ["data.val_fraction=none", "training.select=last"]
TINY = ["data.source=digits", "model.widths=[8, 8, 8]", "schedule.epochs=2"]
TINY += ["training.batch_size=256", "training.micro_batch=none"]
# What makes a step the same on any device, up to rounding, which the low rate keeps small.
EXACT = ["training.precision=float32", "training.micro_batch=none", "augment.crop=none"]
EXACT += ["augment.flip=none", "optimizer={name='sgd', lr=0.01}", "schedule={name='constant'}"]
SIDE = {"cuda": 8192, "cpu": 512}  # of the matrices whose product is the device's speed
Run = tuple[float, float]  # seconds, test accuracy
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What every part is given."""

    recipe: resight.Recipe  # without "auto", trains on all images
    source: str
    data: resight.Dataset
    device: torch.device
    rounds: int
    is_tiny: bool
    compiled: bool

    def changed(self, *settings: str) -> resight.Recipe:
        """Return the recipe with other settings."""
        return resight.with_overrides(self.recipe, list(settings))

    def splits(self, recipe: resight.Recipe, device: torch.device | None = None) -> TrainData:
        """Return the training images on a device."""
        return make_splits(recipe, self.data, device or self.device)


def new_state(recipe: resight.Recipe, splits: TrainData) -> TrainState:
    """Return the state before the first step, with weights of the recipe's seed."""
    return init_state(recipe, splits, init_model(recipe, splits))


def wait_for(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(case: Case) -> Result:
    """The device, and FLOP/s of a large matrix product in each precision, the best of ten."""
    about: Result = {"machine": machine(), "python": sys.version.split()[0]}
    about["auto"] = fastest_precision(case.device)
    if case.device.type == "cuda":
        about["name"] = torch.cuda.get_device_name(case.device)
        about["gpus"] = torch.cuda.device_count()
        about["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        about["memory"] = torch.cuda.get_device_properties(case.device).total_memory
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        about[f"tflops_{dtype}"] = matrix_speed(case.device, dtype) / 1e12
    return about


def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of ten."""
    side = SIDE[device.type]
    a = torch.randn(side, side, device=device, dtype=dtype)
    secs = []
    for _ in range(11):
        wait_for(device)
        began = time.perf_counter()
        a @ a
        wait_for(device)
        secs.append(time.perf_counter() - began)
    return 2 * side**3 / min(secs[1:])


def losses(recipe: resight.Recipe, splits: TrainData, steps: int = 5) -> torch.Tensor:
    """The losses of the first steps, on the CPU."""
    with closing(fit(new_state(recipe, splits), recipe, splits)) as events:
        return torch.stack([event.loss.cpu() for event in islice(events, steps)])  # type: ignore[union-attr]


def correctness(case: Case) -> Result:
    """By how much the losses of the first steps differ from those of the CPU in float32."""
    exact, cpu = case.changed(*EXACT), torch.device("cpu")
    rough = [*EXACT, f"training.precision={fastest_precision(case.device)}"]
    results: Result = {}
    torch.backends.cudnn.allow_tf32 = False
    try:
        reference = losses(exact, case.splits(exact, cpu))
        results["losses_cpu"] = reference.tolist()
        for name, recipe in (("float32", exact), ("auto", case.changed(*rough))):
            found = losses(recipe, case.splits(recipe))
            results[f"losses_{name}"] = found.tolist()
            results[f"difference_{name}"] = float(((found - reference) / reference).abs().max())
    finally:
        torch.backends.cudnn.allow_tf32 = True  # torch's default
    return results


def step_profile(case: Case) -> Result:
    """Milliseconds of a step by the wall, and the kernels that take most of the device's time."""
    splits, steps = case.splits(case.recipe), 3 if case.is_tiny else 15
    is_cuda = case.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with closing(fit(new_state(case.recipe, splits), case.recipe, splits)) as events:
        next(events)
        wait_for(case.device)
        began = time.perf_counter()
        for _ in islice(events, steps):
            pass
        wait_for(case.device)
        millis = 1000 * (time.perf_counter() - began) / steps
        with profile(activities=kinds) as profiler:
            for _ in islice(events, 1 if case.is_tiny else 5):
                pass
            wait_for(case.device)
    where = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, where))
    total = sum(getattr(row, where) for row in rows) or 1
    shares = {row.key[:90]: round(getattr(row, where) / total, 4) for row in rows[:20]}
    return {"ms_a_step": millis, "micros_profiled": total, "shares": shares}


def ours(case: Case, recipe: resight.Recipe, *, autotuned: bool = False) -> Callable[[], Run]:
    """A whole training and the test set, data on the device before the clock starts."""
    splits = case.splits(recipe)
    test = case.data.test.to(case.device)
    seed = 0

    def run() -> Run:
        nonlocal seed
        seed += 1
        seeded = resight.with_overrides(recipe, [f"seed={seed}"])
        with torch.backends.cudnn.flags(enabled=True, benchmark=autotuned):
            wait_for(case.device)
            began = time.perf_counter()
            state = new_state(seeded, splits)
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
    if not torch.cuda.is_available() or (package := optional("airbench")) is None:
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
        table = io.StringIO()
        autotuned = torch.backends.cudnn.flags(enabled=True, benchmark=True)
        with autotuned, contextlib.chdir(folder), contextlib.redirect_stdout(table):
            package.train94()
        return figures(table.getvalue())

    return run


def figures(table: str) -> Run:
    """Seconds and accuracy from the last table row that airbench prints."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    last = next(row for row in reversed(rows) if len(row) == 7 and row[1] == "eval")
    return float(last[6]), float(last[5])


def time_to_accuracy(case: Case) -> Result:
    """Seconds and accuracy of each side, in turn."""
    right: dict[str, list[float]] = {}

    def side(name: str, run: Callable[[], Run]) -> Callable[[], float]:
        def secs() -> float:
            seconds, share = run()
            right.setdefault(name, []).append(share)
            return seconds

        return secs

    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], Run] | None] = {
            "resight": ours(case, case.recipe),
            "resight, cudnn.benchmark": ours(case, case.recipe, autotuned=True),
            "airbench94": airbench(case.data, Path(folder)),
        }
        if case.compiled:
            runs["resight, compiled"] = ours(case, case.changed("training.compile=true"))
        sides = {name: side(name, run) for name, run in runs.items() if run is not None}
        secs = in_turn(sides, case.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    return {
        name: {
            "secs": spread(values),
            "accuracy": statistics.fmean(right[name][1:]),  # the first round is no figure
            "deviation": statistics.stdev(right[name][1:]),
            "times_airbench": ratio(values, secs["airbench94"]) if "airbench94" in secs else None,
        }
        for name, values in secs.items()
    }


def speeds(case: Case) -> Result:
    """images/s: our epochs after the first, and an epoch of the loop people write."""
    recipe = case.recipe
    splits = case.splits(recipe)
    state = new_state(recipe, splits)
    rows = [e.row for e in fit(state, recipe, splits) if isinstance(e, EpochDone)]
    on_cpu = case.splits(recipe, torch.device("cpu"))
    its = written(case.changed("training.batch_size=512"), on_cpu)
    its.model.to(case.device)  # in place: the optimizer holds the same weights
    work, speed = cost(recipe), statistics.median(row.images_per_sec for row in rows[1:])
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.training.precision)
    peak = matrix_speed(case.device, dtype or torch.float32)
    return {
        "resight": speed,
        "plain loop": plain_side(its)(),
        "share_of_matrix_speed": work.run_flop / work.images * speed / peak,
    }


def range_test(case: Case) -> Result:
    """Seconds of `resight lr-find`, the peak that it finds, and its verdict."""
    recipe = case.changed("data.val_fraction=0.1")
    began = time.perf_counter()
    curve = resight.lr_find(recipe, device=case.device.type, options=LRRangeOptions())
    secs = time.perf_counter() - began
    verdict = {"trusted": curve.verdict.ok, "reasons": list(curve.verdict.reasons)}
    return {"secs": secs, "peak": curve.peak, "stopped": curve.stopped, **verdict}


def heat_maps(case: Case) -> Result:
    """Milliseconds for maps of 1,000 images at two layers, and how far they are from the CPU's."""
    recipe, cpu = case.changed("training.precision=float32"), torch.device("cpu")
    splits = case.splits(recipe, cpu)
    model = init_model(recipe, splits).eval()
    images = splits.train.images_at(slice(100 if case.is_tiny else 1000)).float() / 255
    layers, maps, millis = ("block1", "block3"), [], {}
    for device in (cpu, case.device):
        model.to(device)
        for _ in range(2):
            wait_for(device)
            began = time.perf_counter()
            result = resight.heatmaps(model, images.to(device), layers, ("predicted", 0))
            wait_for(device)
            millis[device.type] = 1000 * (time.perf_counter() - began)
        maps.append([result.upsampled(layer).cpu() for layer in layers])
    gaps = [float((a - b).abs().mean()) for a, b in zip(*maps, strict=True)]
    return {"ms": millis, "mean_difference": dict(zip(layers, gaps, strict=True))}


def cold_start(case: Case) -> Result:
    """Seconds of `resight train` in a fresh process, installation and data cache warm."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "resight", "train", RECIPE, "--data", case.source]
        command += ["--out", out, "--quiet", "--device", case.device.type]
        for setting in ["explain.report=false", *(TINY[1:] if case.is_tiny else [])]:
            command += ["--set", setting]
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return {"secs": time.perf_counter() - began}


def ranks(case: Case) -> Result:
    """What `bench/distributed.py` finds on all GPUs of this machine."""
    kind = case.device.type
    count = torch.cuda.device_count() if kind == "cuda" else 2
    if count < 2:
        return {"left_out": f"it needs two GPUs, and torch finds {count}"}
    with tempfile.TemporaryDirectory() as folder:
        place = (Path(folder), count, kind)
        return {
            "ranks": count,
            "difference_from_one": distributed.equal(*place),
            "kills": distributed.kills(*place, times=5, rng=random.Random(0)),
            "stops": distributed.stops(*place),
        }


PARTS: dict[str, Callable[[Case], Result]] = {
    "hardware": hardware,
    "correctness": correctness,
    "profile": step_profile,
    "accuracy": time_to_accuracy,
    "speeds": speeds,
    "range test": range_test,
    "heat maps": heat_maps,
    "cold start": cold_start,
    "ranks": ranks,
}


def case_of(arguments: argparse.Namespace) -> Case:
    """Return the recipe and the data; with --tiny the digits and a small network."""
    device = torch.device(arguments.device)
    source = "digits" if arguments.tiny else arguments.data
    settings = [*ALL_IMAGES, f"training.precision={fastest_precision(device)}"]
    recipe = resight.with_overrides(
        resight.load_recipe(RECIPE), [*settings, *(TINY if arguments.tiny else [])]
    )
    data = resight.data(source)
    return Case(
        with_changes(recipe, {"data": {"source": source}}, origin="bench"),
        source,
        data,
        device,
        arguments.rounds,
        arguments.tiny,
        arguments.compiled,
    )


def main() -> None:
    """Parse the arguments, run the parts, write a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, a name or a path")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, help="append the lines here too")
    parser.add_argument("--limit", type=float, default=1000, help="seconds; then no part begins")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compiled", action="store_true", help="a side with training.compile too")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the digits, to try the code")
    arguments = parsed(parser)
    if arguments.rounds < 2:
        sys.exit(f"--rounds {arguments.rounds}: a deviation needs at least 2")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this bench needs a CUDA device, and torch finds none; see --device cpu --tiny")
    began, failed = time.perf_counter(), []
    case = case_of(arguments)
    for part in arguments.parts:
        start = time.perf_counter()
        result: Result = {"left_out": f"--limit {arguments.limit:g} s is over"}
        if start - began < arguments.limit:
            try:
                result = PARTS[part](case)
            except Exception as error:
                traceback.print_exc()
                failed.append(part)
                result = {"failed": f"{type(error).__name__}: {error}"}
        line = json.dumps({"part": part, "took": time.perf_counter() - start, **result})
        print(line, flush=True)
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
