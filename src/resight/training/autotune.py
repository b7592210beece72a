"""What "auto" in `[training]` becomes: the way in which this machine computes fastest.

`precision`: bf16 is up to twice as fast where the processor or the GPU multiplies it, and slow
where it has to be emulated. What it has is asked, not timed: another load must not change a run.
`micro_batch`: on a CPU a whole batch of activations does not fit the cache, and small parts do not
fill the cores; what is best between is measured as a run begins. On a GPU it says nothing.
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
from .precision import autocast, to_memory_format
from .state import TrainData, TrainState

MICRO_BATCH_SIZES = (
    32,
    64,
    128,
    256,
)  # those below the batch; the batch itself too where it is no larger
NUM_ROUNDS = 3
BUDGET_SECS = 8.0  # a round after the first begins before that


def resolve_auto(recipe: Recipe, state: TrainState, data: TrainData) -> tuple[Recipe, list[str]]:
    """The recipe with a value in place of each "auto", and lines that say so, or what is slow here.

    A run folder records it, so that the run can be repeated. `state` is left as it is.
    """
    lines = []
    asked, device = recipe.training.precision, data.train.images.device
    if asked == "auto":
        precision = "bf16" if supports_bf16(device) else "float32"
        recipe = with_changes(recipe, {"training": {"precision": precision}}, origin="auto")
        lines.append(f"training.precision = {precision}")
    elif asked == "bf16" and _emulates_bf16(device):  # a run begun elsewhere may be resumed here
        lines.append(
            "training.precision = bf16, for which there are no instructions here: a step may take "
            "several times as long as in float32; auto would take float32"
        )
    if recipe.training.micro_batch == "auto":
        recipe, line = _with_micro_batch(recipe, state, data)
        lines.append(line)
    return recipe, lines


def supports_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16: AVX-512 BF16 on a CPU, sm_80 on a GPU."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _emulates_bf16(device: torch.device) -> bool:
    """Whether it is known to have no instructions; other processors than x86 are not known."""
    known = device.type == "cuda" or platform.machine().lower() in ("x86_64", "amd64")
    return known and device.type in ("cpu", "cuda") and not supports_bf16(device)


def _with_micro_batch(recipe: Recipe, state: TrainState, data: TrainData) -> tuple[Recipe, str]:
    size = min(recipe.training.batch_size, len(data.train))
    speeds: dict[int, float] = {}
    if data.train.images.device.type == "cpu" and size > MICRO_BATCH_SIZES[0]:
        sizes = sorted(
            {n for n in MICRO_BATCH_SIZES if n < size} | {min(size, MICRO_BATCH_SIZES[-1])}
        )
        speeds = _speeds(recipe, state, data, sizes)
    fastest = max(speeds, key=speeds.__getitem__, default=size)
    chosen = "none" if fastest == size else fastest
    said = ", ".join(f"{n}: {speed:,.0f}" for n, speed in speeds.items())
    line = f"training.micro_batch = {chosen}" + (f" (images/s with {said})" if said else "")
    return with_changes(recipe, {"training": {"micro_batch": chosen}}, origin="auto"), line


def _speeds(
    recipe: Recipe, state: TrainState, data: TrainData, sizes: list[int]
) -> dict[int, float]:
    """Images/s, forward and backward, of a copy of the network; sizes in turn, medians."""
    training, device = recipe.training, data.train.images.device
    model = copy.deepcopy(state.model).train()
    images = to_memory_format(normalize(data.train.images[: sizes[-1]], data.stats), training)
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
    return {n: n / median(its[1:]) for n, its in secs.items()}
