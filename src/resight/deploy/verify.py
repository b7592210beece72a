"""Whether a program gives what torch gives, on test images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..cam.heatmaps import heatmaps
from ..datasets import Dataset, Statistics, batch_size_for
from ..datasets.augment import normalize
from ..errors import ResightError, UsageError
from ..events import Message, OnEvent, Progress
from ..networks.eval_mode import eval_mode
from ..recipe.toml import with_changes
from ..records import evenly_spaced
from ..runs.checkpoint import ModelInfo
from ..training.setup import load_dataset
from .programs import Outputs, RunProgram

NUM_TEST_IMAGES = 1_000
NUM_NOISE_IMAGES = 100  # that stand in for test images where the data is not at hand


def sample_images(
    info: ModelInfo, data: Dataset | str | Path | None, on_event: OnEvent
) -> tuple[Tensor, str]:
    """Return up to 1,000 test images, uint8 (N, C, H, W), and their name; else noise.

    Nothing is downloaded. If the data of the run is not at hand, noise stands in for it, and a
    message says so.

    Raises:
        UsageError: `data` cannot be read, or its images are not like those of the run.
    """
    size = {"data": {"image_size": info.image_size, "relabel": None, "exclude": None}}
    recipe = with_changes(info.recipe, size, origin="export")
    shape = (info.channels, info.image_size, info.image_size)
    try:
        test = load_dataset(recipe, data, offline=True, on_event=on_event).test
        if tuple(test.shape[1:]) != shape:
            raise UsageError(
                f"the test images are {tuple(test.shape[1:])}, but the network was trained "
                f"on {shape}; give the data of the run"
            )
    except ResightError as error:
        if data is not None:
            raise
        on_event(Message(f"noise stands in for the test images, as {error}"))
        generator = torch.Generator().manual_seed(0)
        count = (NUM_NOISE_IMAGES, *shape)
        noise = torch.randint(0, 256, count, dtype=torch.uint8, generator=generator)
        return noise, f"{NUM_NOISE_IMAGES} images of noise"
    rows = evenly_spaced(len(test), NUM_TEST_IMAGES)
    return test.images_at(torch.from_numpy(rows)), f"{len(rows):,} test images"


def largest_difference(
    run_program: RunProgram,
    network: nn.Module,
    images: Tensor,
    stats: Statistics,
    *,
    with_maps: bool,
    on_event: OnEvent,
    temperature: float = 1.0,
) -> float:
    """Return the largest difference of any output of a program from torch's; NaN if one is NaN."""
    batch, differences = batch_size_for(images, 128), []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        outputs = run_program(part.numpy())
        expected = expected_outputs(
            network, part, stats, with_maps=with_maps, temperature=temperature
        )
        for name, value in expected.items():
            differences.append(np.abs(outputs[name] - value).max())
        on_event(Progress("compare with torch", first + len(part), len(images)))
    return float(np.max(differences))


def expected_outputs(
    network: nn.Module,
    images: Tensor,
    stats: Statistics,
    *,
    with_maps: bool,
    temperature: float = 1.0,
) -> Outputs:
    """Return what a program of `network` must give for images, as resight itself computes it.

    None of it is code of the program: the heat maps are those of `resight.heatmaps`.
    """
    normalized = normalize(images, stats)
    maps = {}
    if with_maps:
        heat = heatmaps(network, normalized, classes="all")
        [values], logits = heat.maps.values(), heat.logits
        maps = {"heatmap": values.numpy()}  # (N, K, h, w)
    else:
        with eval_mode(network):
            logits = network(normalized).float()
    probabilities = (logits / temperature).softmax(dim=1)
    return {"probabilities": probabilities.numpy(), "logits": logits.numpy(), **maps}
