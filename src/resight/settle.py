"""What "auto" in `[training]` becomes: the way in which this machine computes fastest.

Measured as a run begins, on its own network and images. `precision`: bf16 is up to twice as fast
where the processor multiplies it (AVX-512 BF16, AMX) and slower where it has to be emulated.
`micro_batch`: on a CPU a whole batch of activations does not fit the cache, and small parts do not
fill the cores. A GPU takes whole batches, in bf16 if it has that.
"""

import copy
import time
from collections.abc import Mapping
from statistics import median

import torch
import torch.nn.functional as F

from .augment import normalise
from .evaluation import autocast, in_layout
from .recipe import Recipe, Training
from .recipe_text import overlay
from .train_state import TrainData, TrainState

SIZES = (32, 64, 128, 256)  # those below the batch; the batch itself too where it is no larger
ROUNDS = 3
BUDGET_SECS = 8.0  # a round after the first begins before that
WORTH = 1.2  # bf16 has to be so many times as fast as float32 to be taken


def settled(recipe: Recipe, state: TrainState, data: TrainData) -> tuple[Recipe, list[str]]:
    """The recipe with what was measured in place of each "auto", and lines that say so.

    A run folder records it, so that the run can be repeated. `state` is left as it is.
    """
    lines = []
    for knob, settle in (("precision", _precision), ("micro_batch", _micro_batch)):
        if getattr(recipe.training, knob) == "auto":
            chosen, speeds = settle(recipe.training, state, data)
            recipe = overlay(recipe, {"training": {knob: chosen}}, origin="auto")
            said = ", ".join(f"{way}: {speed:,.0f}" for way, speed in speeds.items())
            lines.append(f"training.{knob} = {chosen}" + (f" (images/s: {said})" if said else ""))
    return recipe, lines


def _precision(
    training: Training, state: TrainState, data: TrainData
) -> tuple[str, dict[str, float]]:
    """bf16 or float32, and the images/s of both where they were measured."""
    kind = data.train.images.device.type
    if kind != "cpu":
        has = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if has else "float32", {}
    size = min(SIZES[0], training.batch_size, len(data.train))
    ways = {
        way: (training.model_copy(update={"precision": way}), size) for way in ("float32", "bf16")
    }
    speeds = _speeds(ways, state, data)
    return "bf16" if speeds["bf16"] > WORTH * speeds["float32"] else "float32", speeds


def _micro_batch(
    training: Training, state: TrainState, data: TrainData
) -> tuple[int | str, dict[str, float]]:
    """Images at a time, or "none" for whole batches; and the images/s of the sizes measured."""
    size = min(training.batch_size, len(data.train))
    if data.train.images.device.type != "cpu" or size <= SIZES[0]:
        return "none", {}
    sizes = sorted({n for n in SIZES if n < size} | {min(size, SIZES[-1])})
    speeds = _speeds({str(n): (training, n) for n in sizes}, state, data)
    fastest = int(max(speeds, key=speeds.__getitem__))
    return "none" if fastest == size else fastest, speeds


def _speeds(
    ways: Mapping[str, tuple[Training, int]], state: TrainState, data: TrainData
) -> dict[str, float]:
    """Images/s of a copy of the network, forward and backward, so many images at a time.

    Ways in turn, medians.
    """
    device = data.train.images.device
    model = copy.deepcopy(state.model).train()
    secs: dict[str, list[float]] = {way: [] for way in ways}
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # dropout draws
        for turn in range(ROUNDS + 1):  # one more, to warm up
            if turn > 1 and time.perf_counter() - began > BUDGET_SECS:
                break
            for way, (training, n) in ways.items():
                images = in_layout(normalise(data.train.images[:n], data.stats), training)
                before = time.perf_counter()
                with autocast(training, device):
                    logits = model(images)
                F.cross_entropy(logits.float(), data.train.labels[:n]).backward()  # type: ignore[no-untyped-call]
                secs[way].append(time.perf_counter() - before)
    return {way: ways[way][1] / median(its[1:]) for way, its in secs.items()}
