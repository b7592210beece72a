"""What a recipe costs: parameters, operations, and the time of a whole run on this machine."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..datasets import Split, Statistics
from ..events import StepDone
from ..networks import build_model, layer_table
from ..recipe import Recipe
from ..recipe.toml import with_changes
from .autotune import resolve_auto
from .device import pick_device
from .loop import fit
from .setup import init_model
from .state import TrainData, init_state

# Source -> (training images with those held out, channels, px); other data is priced as CIFAR-10.
KNOWN_SIZES: Mapping[str, tuple[int, int, int]] = {
    "digits": (1_442, 1, 32),
    "cifar10": (50_000, 3, 32),
}
CLASSES = 10
BACKWARD = 2  # times the forward pass: one product for the inputs' gradient, one for the weights'
# Forward FLOP of a step of the probe on a CPU: 16 images of ResNet-18, 270 of swift. A GPU needs a
# whole batch. With fewer images of a small network the optimizer would weigh too much.
PROBE_FLOP = 18e9
PROBE_STEPS = 3  # and one before them, to warm up


@dataclass(frozen=True)
class Cost:
    """The parameters and operations of one run of a recipe on the images of its `data.source`."""

    parameters: int
    forward_flop: int  # an image, convolutions and matrix products, two for a multiply-add
    run_flop: int  # forward and backward, every image of every epoch; without evaluation
    images: int  # seen in training, over all epochs

    def secs(self, images_per_sec: float) -> float:
        """Return the seconds of training at a speed measured on images of full size."""
        return self.run_flop / (self.forward_flop * (1 + BACKWARD)) / images_per_sec


def cost(recipe: Recipe) -> Cost:
    """Return the parameter count and FLOPs of a run of a recipe."""
    total, channels, px = _image_sizes(recipe)
    model = build_model(
        recipe.model, in_channels=channels, num_classes=CLASSES, image_size=px, seed=0
    )
    whole = layer_table(model, (channels, px, px))[0]
    images = round(total * (1 - (recipe.data.val_fraction or 0))) * recipe.schedule.epochs
    mean, early = float(whole.flop), recipe.training.progressive
    if early:
        smaller = layer_table(model, (channels, early.px, early.px))[0]
        mean = early.share * smaller.flop + (1 - early.share) * whole.flop
    return Cost(whole.parameters, whole.flop, round(mean * (1 + BACKWARD) * images), images)


def _image_sizes(recipe: Recipe) -> tuple[int, int, int]:
    """The number of training images, their channels, and their width and height in pixels."""
    total, channels, px = KNOWN_SIZES.get(recipe.data.source, KNOWN_SIZES["cifar10"])
    return total, channels, recipe.data.image_size or px


def images_per_sec(recipe: Recipe, *, device: str = "auto") -> float:
    """Measure how fast this machine trains a recipe: the median of three steps on random images.

    The loop, augmentation, loss and optimizer are the recipe's. On a CPU a step has as many images
    as take a fraction of a second, on other devices a whole batch.
    """
    chosen = pick_device(device)
    _, channels, px = _image_sizes(recipe)
    size = recipe.training.batch_size
    if chosen.type == "cpu":
        size = min(size, max(1, round(PROBE_FLOP / cost(recipe).forward_flop)))
    n = size * (1 + PROBE_STEPS)
    training = {"batch_size": size, "select": "last", "compile": False, "progressive": "none"}
    shrunk = with_changes(
        recipe,
        {
            "data": {"val_fraction": "none"},
            "optimizer": {"lr": 1e-6},  # random images must not make it diverge
            "schedule": {"name": "constant", "epochs": 1},
            "training": training,
        },
        origin="probe",
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, channels, px, px), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(n) % CLASSES, ("",) * n)
    flat = Statistics((0.5,) * channels, (0.25,) * channels)
    data = TrainData(split.to(chosen), None, flat, tuple(map(str, range(CLASSES))))
    state = init_state(shrunk, data, init_model(shrunk, data))
    shrunk, _ = resolve_auto(shrunk, state, data)
    marks: list[float] = []
    for event in fit(state, shrunk, data):
        if isinstance(event, StepDone):
            float(event.loss)  # waits until the device has done the step
            marks.append(time.perf_counter())
    return size / statistics.median(b - a for a, b in pairwise(marks))
