"""What the model says about each image, in order, whatever the batch size and the views."""

import numpy as np
import pytest
import torch
from torch import nn

from resight.datasets import statistics
from resight.networks import build_model
from resight.recipe import Evaluation, Swift, Training
from resight.training.precision import autocast, layout_for, to_memory_format
from resight.training.predict import predict_split, tta_logits

FLOAT32 = Training(precision="float32")
BF16 = Training(precision="bf16")
FP16 = Training(precision="fp16")


class Curved(nn.Module):
    """Every pixel counts, and none as much as its mirror image."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 3)
        nn.init.normal_(self.fc.weight, std=0.03, generator=torch.Generator().manual_seed(1))

    def forward(self, images):
        return self.fc(images.flatten(1)).tanh()


@pytest.fixture(scope="module")
def split(tiny):
    return tiny.test


@pytest.fixture(scope="module")
def stats(tiny):
    return statistics(tiny.train)


def swift():
    spec = Swift(widths=(8, 8, 8), dropout=0.5)
    return build_model(spec, in_channels=3, num_classes=3, image_size=16, seed=0)


def normalized(image, stats):
    """(3, 16, 16) uint8 -> float32, the slow way."""
    channels = [
        (channel.astype(np.float64) / 255 - mean) / std
        for channel, mean, std in zip(image, stats.mean, stats.std, strict=True)
    ]
    return np.stack(channels).astype(np.float32)


def shifted(image, dy, dx):
    """The image moved down by dy and right by dx; what comes in is reflected."""
    rows = [row - dy for row in range(16)]
    columns = [column - dx for column in range(16)]

    def reflect(i):
        return -i if i < 0 else 30 - i if i > 15 else i

    return image[:, [reflect(r) for r in rows]][:, :, [reflect(c) for c in columns]]


# --- one pass over a split --------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 31, 500])
def test_predictions_are_in_the_order_of_the_split(tiny, split, stats, batch_size):
    model = swift()
    predictions = predict_split(model, split, stats, classes=tiny.classes, batch_size=batch_size)
    model.eval()
    one_by_one = [
        model(torch.from_numpy(normalized(image, stats))[None]).detach().numpy()[0]
        for image in split.images.numpy()
    ]
    assert predictions.logits.dtype == np.float32
    np.testing.assert_allclose(predictions.logits, one_by_one, rtol=1e-4, atol=1e-6)
    assert len(np.unique(predictions.logits[:, 0])) == 31
    assert predictions.ids == split.ids
    assert predictions.classes == tiny.classes
    assert predictions.labels.tolist() == split.labels.tolist()
    assert predictions.labels.dtype == np.int64


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_come_in_the_layout_of_the_recipe(tiny, split, stats, channels_last):
    layouts = set()

    class Watched(Curved):
        def forward(self, images):
            layouts.add(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    training = Training(channels_last=channels_last)
    predict_split(Watched(), split, stats, classes=tiny.classes, training=training)
    assert layouts == {channels_last}


def test_mps_has_the_plain_layout():
    kinds = {kind: layout_for(Training(), torch.device(kind)) for kind in ("cpu", "cuda", "mps")}
    assert kinds == {
        "cpu": torch.channels_last,
        "cuda": torch.channels_last,
        "mps": torch.contiguous_format,
    }


def test_a_memory_format_changes_no_value():
    images = torch.randn(2, 3, 4, 5)
    last = to_memory_format(images, Training(channels_last=True))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, images)
    assert to_memory_format(last, Training(channels_last=False)).is_contiguous()
    assert to_memory_format(images, Training(channels_last=False)) is images


# --- test-time augmentation ---------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 500])
@pytest.mark.parametrize("tta", ["flip", "flip_shift"])
def test_views_equal_a_slow_reference(tiny, split, stats, tta, batch_size):
    model = Curved()
    # (weight, down, right, mirrored): a half for the unshifted, an eighth for each shifted.
    views = {
        "flip": [(1 / 2, 0, 0, False), (1 / 2, 0, 0, True)],
        "flip_shift": [
            (1 / 4, 0, 0, False),
            (1 / 4, 0, 0, True),
            *((1 / 8, d, d, mirrored) for d in (-1, 1) for mirrored in (False, True)),
        ],
    }[tta]
    expected = np.zeros((31, 3))
    for row, image in enumerate(split.images.numpy()):
        for weight, down, right, mirrored in views:
            view = shifted(normalized(image, stats), down, right)
            view = np.ascontiguousarray(view[:, :, ::-1] if mirrored else view)
            expected[row] += weight * model(torch.from_numpy(view)[None]).detach().numpy()[0]
    predictions = predict_split(
        model,
        split,
        stats,
        classes=tiny.classes,
        evaluation=Evaluation(tta=tta),
        batch_size=batch_size,
    )
    np.testing.assert_allclose(predictions.logits, expected, rtol=1e-5, atol=1e-6)
    plain = predict_split(model, split, stats, classes=tiny.classes).logits
    assert np.abs(predictions.logits - plain).max() > 1e-3


@pytest.mark.parametrize("batch_size", [7, 500])
def test_only_unsure_images_get_more_views(tiny, split, stats, batch_size):
    model = Curved()

    def logits(**settings):
        evaluation = Evaluation(**settings)
        return predict_split(
            model, split, stats, classes=tiny.classes, evaluation=evaluation,
            batch_size=batch_size,
        ).logits  # fmt: skip

    plain, averaged = logits(), logits(tta="flip_shift")
    highest = torch.from_numpy(plain).softmax(1).amax(1).numpy()
    below = float(np.sort(highest)[10:12].mean())  # between two images
    unsure = highest < below
    assert unsure.sum() == 11
    mixed = logits(tta="flip_shift", tta_below=below)
    np.testing.assert_allclose(mixed[unsure], averaged[unsure], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed[~unsure], plain[~unsure], rtol=1e-5, atol=1e-6)


def test_views_are_averaged_in_float32():
    # 1 and 1 + 1/128 are neighbors in bfloat16; their mean lies between them.
    images = torch.ones(1, 1, 2, 2)
    images[..., -1] += 2**-7
    logits = tta_logits(lambda view: view[:, 0, 0, :1].bfloat16(), images, "flip")
    assert logits.dtype == torch.float32
    assert logits.item() == 1 + 2**-8


# --- what is borrowed -------------------------------------------------------------------------


def test_the_model_is_left_as_it_was(tiny, split, stats):
    model = swift().train()
    model.block1.eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    predict_split(model, split, stats, classes=tiny.classes)
    assert [module.training for module in model.modules()] == flags
    assert True in flags
    assert False in flags
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.is_grad_enabled()


def test_flags_and_gradients_are_given_back_after_an_exception(tiny, split, stats):
    class Broken(Curved):
        def forward(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            raise RuntimeError("no kernel")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="no kernel"):
        predict_split(model, split, stats, classes=tiny.classes)
    assert model.training
    assert model.fc.training
    assert torch.is_grad_enabled()


def test_what_a_module_keeps_from_evaluation_can_be_trained_with(tiny, split, stats):
    class Caching(Curved):
        grid = None

        def forward(self, images):
            if self.grid is None:
                self.grid = torch.linspace(0, 1, 16, device=images.device)
            images = images * (self.grid * self.fc.bias[0].exp())
            return super().forward(images)

    model = Caching()
    predict_split(model, split, stats, classes=tiny.classes)
    model(torch.ones(2, 3, 16, 16)).sum().backward()
    assert model.fc.weight.grad.abs().sum() > 0


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "dtype"),
    [(FLOAT32, torch.float32), (BF16, torch.bfloat16), (FP16, torch.float16)],
    ids=["float32", "bf16", "fp16"],
)
def test_autocast_computes_in_the_precision_of_the_recipe(training, dtype):
    a = torch.ones(2, 2)
    with autocast(training, torch.device("cpu")):
        assert (a @ a).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16), autocast(training, torch.device("cpu")):
        assert (a @ a).dtype == dtype


def test_logits_are_float32_in_any_precision(tiny, split, stats):
    model = Curved()
    exact = predict_split(model, split, stats, classes=tiny.classes, training=FLOAT32).logits
    rough = predict_split(model, split, stats, classes=tiny.classes, training=BF16).logits
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, exact, atol=0.03)
    assert not np.array_equal(rough, exact)


def test_views_in_words():
    assert Evaluation().views == ""
    assert Evaluation(tta="flip").views == "2 views (flip) of all images"
    unsure = Evaluation(tta="flip_shift", tta_below=0.6)
    assert unsure.views == "6 views (flip_shift) of images below 60%"
