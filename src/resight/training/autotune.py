"""Resolve "auto" in `[training]`: the precision and the micro-batch that are fastest here.

`precision`: bf16 is up to twice as fast where the processor or the GPU multiplies it, and slow
where it is emulated. A GPU without it, but with fp16, takes that: its gradients need a scaled loss,
and steps whose gradients overflow are left out. The hardware is queried, not timed: another load
must not change a run.
`micro_batch`: on a CPU the activations of a whole batch do not fit the cache, and small parts do
not fill the cores; the best size is measured before a run begins. A GPU takes whole batches.
"""

import copy
import platform
import time
from statistics import median

import torch
import torch.nn.functional as F

from ..datasets.augment import normalize
from ..recipe import Recipe
from ..recipe.toml import with_changes
from .precision import autocast, fastest_precision, supports_bf16, to_memory_format
from .state import TrainData, TrainState

MICRO_BATCH_SIZES = (32, 64, 128, 256)  # tried if below the batch; and the batch, up to the last
NUM_ROUNDS = 3
BUDGET_SECS = 8.0  # no round but the first starts later


def resolve_auto(recipe: Recipe, state: TrainState, data: TrainData) -> tuple[Recipe, list[str]]:
    """Return the recipe with a value for each "auto", and lines that name the values.

    A run folder records the values, so that the run can be repeated. `state` is left as it is. A
    line also warns of a precision that is slow on this machine.
    """
    lines = []
    precision, device = recipe.training.precision, data.train.device
    if precision == "auto":
        precision = fastest_precision(device)
        recipe = with_changes(recipe, {"training": {"precision": precision}}, origin="auto")
        lines.append(f"training.precision = {precision}")
    elif precision == "bf16" and _emulates_bf16(device):  # a run may be resumed elsewhere
        lines.append(
            "training.precision = bf16, but this machine has no bf16 instructions: a step may take "
            "several times as long as in float32, which auto would choose"
        )
    if recipe.training.micro_batch == "auto":
        recipe, line = _with_micro_batch(recipe, state, data)
        lines.append(line)
    return recipe, lines


def _emulates_bf16(device: torch.device) -> bool:
    """Whether a device is known to have no bf16 instructions; only x86 and GPUs are known."""
    known = device.type == "cuda" or platform.machine().lower() in ("x86_64", "amd64")
    return known and device.type in ("cpu", "cuda") and not supports_bf16(device)


def _with_micro_batch(recipe: Recipe, state: TrainState, data: TrainData) -> tuple[Recipe, str]:
    size = min(recipe.training.batch_size, len(data.train))
    speeds: dict[int, float] = {}
    if data.train.device.type == "cpu" and size > MICRO_BATCH_SIZES[0]:
        sizes = [n for n in MICRO_BATCH_SIZES if n < size]
        speeds = _speeds(recipe, state, data, sizes + [size] * (size <= MICRO_BATCH_SIZES[-1]))
    fastest = max(speeds, key=speeds.__getitem__, default=size)
    chosen = "none" if fastest == size else fastest
    measured = ", ".join(f"{n}: {speed:,.0f}" for n, speed in speeds.items())
    line = f"training.micro_batch = {chosen}" + (f" (images/s with {measured})" if measured else "")
    return with_changes(recipe, {"training": {"micro_batch": chosen}}, origin="auto"), line


def _speeds(
    recipe: Recipe, state: TrainState, data: TrainData, sizes: list[int]
) -> dict[int, float]:
    """The median images/s of each size, forward and backward in a copy of the network."""
    training, device = recipe.training, data.train.device
    model = copy.deepcopy(state.model).train()
    images = to_memory_format(
        normalize(data.train.images_at(slice(sizes[-1])), data.stats), training
    )
    labels = data.train.labels[: sizes[-1]]
    secs: dict[int, list[float]] = {n: [] for n in sizes}
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # dropout draws
        for turn in range(NUM_ROUNDS + 1):  # one more, to warm up
            if turn > 1 and time.perf_counter() - began > BUDGET_SECS:
                break
            for n in sizes:
                before = time.perf_counter()
                with autocast(training, device):
                    logits = model(images[:n])
                F.cross_entropy(logits.float(), labels[:n]).backward()  # type: ignore[no-untyped-call]
                secs[n].append(time.perf_counter() - before)
    return {n: n / median(rounds[1:]) for n, rounds in secs.items()}
