"""Gray images as color and color as gray, as a recipe's `data.channels` asks for."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import resight
from resight.datasets import Split
from resight.recipe.toml import from_toml
from resight.training.setup import prepare


def test_luma_is_that_of_pillow() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 64, 64), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    gray = split.with_channels(1)
    for color, image in zip(images, gray.images, strict=True):
        expected = Image.fromarray(color.permute(1, 2, 0).numpy()).convert("L")
        assert np.array_equal(image[0].numpy(), np.asarray(expected))
    again = gray.with_channels(3).images
    assert all(torch.equal(again[:, channel], gray.images[:, 0]) for channel in range(3))
    assert split.with_channels(3) is split


def test_a_network_for_color_trains_on_gray_images(tmp_path: Path) -> None:
    recipe = from_toml(
        '[data]\nsource = "digits"\nchannels = 3\n[model]\nname = "swift"\nwidths = [8, 8, 8]\n'
        "[schedule]\nepochs = 1\n[explain]\nreport = false\npictures = false"
    )
    setup = prepare(
        recipe, data=None, model=None, device="cpu", offline=True, on_event=lambda event: None
    )
    assert setup.splits.train.images.shape[1] == 3
    assert setup.dataset.test.images.shape[1] == 3
    run = resight.train(recipe, out=tmp_path)
    picture = tmp_path / "7.png"
    Image.fromarray(setup.dataset.test.images[0, 0].numpy()).save(picture)
    [prediction] = resight.predict(run, [picture])
    assert len(prediction.ranking) == 10
    assert resight.evaluate(run).test.accuracy == run.test.accuracy
