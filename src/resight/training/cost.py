"""What a recipe costs: parameters, operations, and the time of a whole run on this machine."""

import copy
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ..datasets import Split, Statistics
from ..errors import UsageError
from ..events import Message, OnEvent, StepDone
from ..networks import build_model, layer_table
from ..optim.schedules import describe
from ..recipe import Recipe
from ..recipe.toml import with_changes, with_epochs
from .autotune import resolve_auto
from .device import pick_device
from .loop import fit
from .network import init_model
from .predict import predict_split
from .setup import TrainSetup
from .state import TrainData, TrainState, init_state

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
PROBE_SECS = 3.0  # of a run that exists: no more steps begin later
MAX_PROBE_STEPS = 40
MAX_PREDICTED = 1_000  # images
MAX_EPOCHS = 10_000
RESERVE = 0.1  # of the time, for what varies
SAVE_SECS, SAVE_BYTES_PER_SEC = 0.1, 5e7  # of the weights, which a checkpoint has a few times
EXPLAIN_SECS, EXPLAIN_STEPS = 10.0, 2  # drawing; for each image with heat maps, times its training


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
    fold = recipe.data.fold
    held_out = 1 / fold.count if fold else recipe.data.val_fraction or 0
    images = round(total * (1 - held_out)) * recipe.schedule.epochs
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
    return size / _step_secs(state, shrunk, data)


def _step_secs(state: TrainState, recipe: Recipe, data: TrainData) -> float:
    """Train to the end of a short recipe; return the median time of a step but the first."""
    marks: list[float] = []
    for event in fit(state, recipe, data):
        if isinstance(event, StepDone):
            float(event.loss)  # waits until the device has done the step
            marks.append(sum(row.train_secs for row in state.rows) + state.epoch_secs)
            if len(marks) > PROBE_STEPS and marks[-1] > PROBE_SECS:
                break
    return statistics.median(b - a for a, b in pairwise(marks))


def check_minutes(minutes: float | None, *, find_lr: bool, devices: int) -> None:
    """Refuse a time for a run that cannot be kept, or is none.

    Raises:
        UsageError: it is not a positive number, or is given with what is not measured.
    """
    if minutes is None:
        return
    if not 0 < minutes < math.inf:
        raise UsageError(f"minutes = {minutes} must be a number > 0")
    if find_lr or devices > 1:
        what, remedy = (
            ("find_lr", "find the rate first (`resight lr-find`) and give it as optimizer.lr")
            if find_lr
            else (f"devices = {devices}", "give the epochs themselves")
        )
        raise UsageError(f"minutes and {what} cannot be given together; {remedy}")


def with_epochs_in(setup: TrainSetup, secs: float, on_event: OnEvent) -> TrainSetup:
    """Return the setup of a run with as many epochs as end within some seconds, and say so.

    The steps, the validation, the checkpoints and the test are measured or estimated on the setup
    itself, whose state is left as it is; a tenth of the time is kept in reserve. The schedule
    stretches as by `with_epochs`, so its first and last rates stay what they are.

    Raises:
        UsageError: not one epoch ends in time, or the recipe takes no steps.
    """
    recipe, splits, state = setup.recipe, setup.splits, setup.state
    if recipe.probe is not None and recipe.probe.only:
        raise UsageError(
            "probe.only = true takes no steps, so there are no epochs to choose; leave out minutes"
        )
    step = _mean_step_secs(setup)
    image = _predict_secs(setup)
    val = image * (len(splits.val) if splits.val else 0)
    size = sum(weight.nbytes for weight in state.model.state_dict().values())
    epoch = step * state.schedule.steps_per_epoch + val + SAVE_SECS + size / SAVE_BYTES_PER_SEC
    views = {None: 1, "flip": 2, "flip_shift": 6}[recipe.evaluation.tta]
    end = image * views * len(setup.dataset.test)
    if recipe.explain.report:
        maps = min(recipe.explain.maps, len(setup.dataset.test))
        end += EXPLAIN_SECS + EXPLAIN_STEPS * maps * step / recipe.training.batch_size
    epochs = math.floor((secs * (1 - RESERVE) - end) / epoch)
    if epochs < 1:
        more = (epoch + end) / (1 - RESERVE) - secs
        raise UsageError(
            f"the {max(secs, 0):.0f} s that are left are too few: an epoch takes {epoch:.1f} s "
            f"here, and what follows the training {end:.0f} s; give at least "
            f"{math.ceil(more / 6) / 10:g} minutes more"
        )
    recipe = with_epochs(recipe, min(epochs, MAX_EPOCHS))
    state = init_state(recipe, splits, state.model)
    on_event(
        Message(
            f"schedule.epochs = {recipe.schedule.epochs}: an epoch takes about {epoch:.2g} s here, "
            f"and what follows the training {end:.0f} s"
        )
    )
    on_event(Message(describe(state.schedule)))
    return replace(setup, recipe=recipe, state=state)


def _mean_step_secs(setup: TrainSetup) -> float:
    """Measure a step of a run, of its own images; smaller images at first count by their share."""
    training, spe = setup.recipe.training, setup.state.schedule.steps_per_epoch
    changes: dict[str, dict[str, Any]] = {
        "schedule": {"name": "constant", "epochs": math.ceil(MAX_PROBE_STEPS / spe)},
        "optimizer": {"lr": 1e-6},
        "training": {"select": "last", "compile": False, "freeze_epochs": "none"},
    }
    if training.freeze_epochs is not None:  # most epochs train everything
        changes["training"]["freeze"] = "none"
    data = replace(setup.splits, val=None)

    def measure(progressive: object) -> float:
        changes["training"]["progressive"] = progressive
        recipe = with_changes(setup.recipe, changes, origin="probe")
        return _step_secs(init_state(recipe, data, copy.deepcopy(setup.state.model)), recipe, data)

    whole, early = measure("none"), training.progressive
    if early is None:
        return whole
    # The whole of a short run is early: a share below 1 of it has to be allowed.
    return early.share * measure({"px": early.px, "share": 0.999}) + (1 - early.share) * whole


def _predict_secs(setup: TrainSetup) -> float:
    """Measure the prediction of an image, without test-time augmentation."""
    splits = setup.splits
    some = (splits.val or splits.train).select(
        torch.arange(min(len(splits.val or splits.train), MAX_PREDICTED))
    )
    secs = []
    for _ in range(2):  # once to warm up
        began = time.perf_counter()
        predict_split(
            setup.state.model,
            some,
            splits.stats,
            classes=splits.classes,
            training=setup.recipe.training,
        )
        secs.append(time.perf_counter() - began)
    return secs[-1] / len(some)
