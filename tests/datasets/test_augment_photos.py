"""The augmentation of photos: every transform against PIL or a loop over one image."""

import colorsys
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from refusal import refused
from resight.datasets import Statistics
from resight.datasets.augment import (
    MixedLabels,
    augment,
    augment_labeled,
    normalize,
    split_labels,
    trivial,
)
from resight.datasets.augment.color import color_jitter
from resight.datasets.augment.draws import Draws, draw
from resight.datasets.augment.geometry import affine, resized_crop, warp
from resight.datasets.augment.mix import mix
from resight.datasets.augment.pipeline import apply
from resight.datasets.augment.trivial import levels, trivial_augment
from resight.recipe import (
    HSV,
    Affine,
    Augment,
    ColorJitter,
    Crop,
    CutMix,
    Cutout,
    Erasing,
    MixUp,
    ResizedCrop,
    Rotate,
)

COLOR = Statistics(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
GRAY = Statistics(mean=(0.31,), std=(0.37,))
OLD = Augment(hsv=HSV(), rotate=Rotate(), crop=Crop(), flip="random", cutout=Cutout())
NEW = {
    "color_jitter": ColorJitter(prob=0.7),
    "affine": Affine(prob=0.7),
    "trivial_augment": "wide",
    "vertical_flip": "random",
    "erasing": Erasing(),
    "mixup": MixUp(),
    "cutmix": CutMix(),
}
EVERYTHING = OLD.model_copy(update=NEW)
WINDOWS = EVERYTHING.model_copy(update={"crop": None, "resized_crop": ResizedCrop()})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=4, channels=3, height=20, width=24, seed=0):
    """Smooth images with edges and noise, (N, C, H, W) uint8: photos are no white noise."""
    shape = (n, channels, 5, 6)
    coarse = torch.randint(0, 256, shape, generator=seeded(seed)).float()
    images = F.interpolate(coarse, (height, width), mode="bilinear")
    images[..., height // 2 :, : width // 3] = 255 - images[..., height // 2 :, : width // 3]
    images += 8 * torch.randn(images.shape, generator=seeded(seed + 1))
    return images.round().clamp(0, 255).to(torch.uint8)


def draws_for(spec, n=20_000, size=(16, 20), seed=0):
    shape = (n, 3, *size)
    return draw(spec, shape, rows=torch.arange(n), epoch=0, seed=0, generator=seeded(seed))


def as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def as_levels(picture):
    array = np.asarray(picture)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1)


def assert_levels(images, pictures, *, most=1, share=1.0):
    """Check that levels differ by at most `most`, and in at most a `share` of the pixels."""
    expected = torch.stack([as_levels(picture) for picture in pictures])
    off = (images.int() - expected.int()).abs()
    assert off.max() <= most
    assert (off > 0).double().mean() <= share


# --- windows ----------------------------------------------------------------------------------


def test_a_resized_crop_is_the_window_that_pil_and_torch_enlarge():
    images = photos()
    boxes = torch.tensor([[0, 0, 20, 24], [3, 5, 9, 7], [19, 23, 1, 1], [2, 0, 18, 24]])
    out = resized_crop(images, boxes)
    assert torch.equal(out[0], images[0])
    windows = [
        image[:, top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)
    ]
    bilinear = Image.Resampling.BILINEAR
    assert_levels(out, [as_pil(w).resize((24, 20), bilinear) for w in windows])
    for image, window in zip(out, windows, strict=True):
        exact = F.interpolate(window[None].double(), (20, 24), mode="bilinear")[0]
        assert (image - exact).abs().max() < 0.5 + 1e-3


def torchvision_window(spec, height, width, rng):
    """Draw one window as torchvision's RandomResizedCrop.get_params does."""
    for _ in range(10):
        area = height * width * rng.uniform(spec.min_scale, spec.max_scale)
        ratio = math.exp(rng.uniform(math.log(spec.min_ratio), math.log(spec.max_ratio)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < spec.min_ratio:
        w, h = width, round(width / spec.min_ratio)
    elif width / height > spec.max_ratio:
        w, h = round(height * spec.max_ratio), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (ResizedCrop(), (32, 32)),
        (ResizedCrop(min_scale=0.08), (64, 48)),
        (ResizedCrop(min_scale=0.9, min_ratio=0.9, max_ratio=1.1), (16, 64)),  # hardly ever fits
        (ResizedCrop(min_scale=0.9, min_ratio=0.9, max_ratio=1.1), (64, 16)),
    ],
)
def test_windows_are_drawn_as_torchvision_draws_them(spec, size):
    boxes = draws_for(Augment(resized_crop=spec), n=5000, size=size).box.numpy()
    rng = np.random.default_rng(0)
    expected = np.array([torchvision_window(spec, *size, rng) for _ in range(5000)])
    for column in range(4):
        assert scipy.stats.ks_2samp(boxes[:, column], expected[:, column]).pvalue > 1e-4
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= size).all()


def test_images_are_turned_upside_down():
    images = photos()
    spec = Augment(vertical_flip="random")
    draws = Draws(upside_down=torch.tensor([True, False, True, False]))
    out = apply(images, draws, spec, COLOR)
    before = normalize(images, COLOR)
    assert torch.equal(out[::2], before[::2].flip(2))
    assert torch.equal(out[1::2], before[1::2])
    assert abs(draws_for(spec).upside_down.double().mean() - 0.5) < 0.02


# --- warps ------------------------------------------------------------------------------------


def sampled(image, forward):
    """Move the pixels of one image by a matrix (3, 3), from the center; the border is mirrored."""
    inverse = np.linalg.inv(forward)
    _, height, width = image.shape
    out = np.empty(image.shape)

    def mirrored(at, size):
        while not 0 <= at <= size - 1:
            at = -at if at < 0 else 2 * (size - 1) - at
        return at

    for y in range(height):
        for x in range(width):
            dx, dy, _ = inverse @ [x - (width - 1) / 2, y - (height - 1) / 2, 1]
            sx, sy = mirrored(dx + (width - 1) / 2, width), mirrored(dy + (height - 1) / 2, height)
            x0, y0 = min(int(sx), width - 2), min(int(sy), height - 2)
            u, v = sx - x0, sy - y0
            top = image[:, y0, x0] * (1 - u) + image[:, y0, x0 + 1] * u
            low = image[:, y0 + 1, x0] * (1 - u) + image[:, y0 + 1, x0 + 1] * u
            out[:, y, x] = top * (1 - v) + low * v
    return out


def test_an_affine_warp_shears_then_rotates_then_scales_then_shifts():
    images = photos()
    angles, moves = [0.0, 20.0, -35.0, 0.0], [
        (3.0, -2.0, 1.0, 0.0),
        (0.0, 0.0, 1.3, 10.0),
        (-1.5, 2.25, 0.7, -25.0),
        (0.0, 0.0, 1.0, 0.0),
    ]  # fmt: skip
    out = warp(images, affine(torch.tensor(angles), torch.tensor(moves)))
    assert torch.equal(out[3], images[3])
    assert torch.equal(out[0, :, :-2, 3:], images[0, :, 2:, :-3])  # right and up
    for image, angle, (right, down, scale, shear), result in zip(
        images.numpy().astype(float), angles, moves, out.numpy(), strict=True
    ):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        shears = np.array([[1, math.tan(math.radians(shear)), 0], [0, 1, 0], [0, 0, 1]])
        turns = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # y points down
        scales, shifts = np.diag([scale, scale, 1.0]), np.eye(3)
        shifts[:2, 2] = right, down
        expected = sampled(image, shifts @ scales @ turns @ shears)
        assert np.abs(result - expected).max() < 0.51


def test_the_draws_of_an_affine_warp():
    spec = Affine(translate=0.25, min_scale=0.8, max_scale=1.5, shear_deg=8, prob=0.6)
    moves = draws_for(Augment(affine=spec)).moves
    moved = (moves != torch.tensor([0.0, 0.0, 1.0, 0.0])).any(dim=1)
    assert abs(moved.double().mean() - 0.6) < 0.02
    for column, (low, high) in zip(
        moves[moved].T, [(-5, 5), (-4, 4), (0.8, 1.5), (-8, 8)], strict=True
    ):
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(column.numpy(), uniform.cdf).pvalue > 1e-4


# --- color ------------------------------------------------------------------------------------


def jittered(image, factors, order):
    """Change the colors of one image (C, H, W), pixel by pixel, in float64."""
    x = image.astype(float)
    for kind in order:
        weights = np.array([0.299, 0.587, 0.114])
        gray = np.tensordot(weights, x, 1) if len(x) == 3 else x[0]
        if kind == 3:
            for i, j in np.ndindex(*gray.shape):
                hue, saturation, value = colorsys.rgb_to_hsv(*x[:, i, j] / 255)
                turned = (hue + factors[3]) % 1
                x[:, i, j] = 255 * np.array(colorsys.hsv_to_rgb(turned, saturation, value))
            continue
        other = (0, gray.mean(), gray)[kind]
        x = np.clip(other + factors[kind] * (x - other), 0, 255)
    return np.round(x)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_color_jitter_is_the_reference_pixel_by_pixel(data):
    factors = [[data.draw(st.floats(0, 2)) for _ in range(3)] for _ in range(2)]
    for row in factors:
        row.append(data.draw(st.floats(-0.5, 0.5)))
    order = [data.draw(st.permutations(range(4))) for _ in range(2)]
    images = photos(n=2, height=6, width=5, seed=data.draw(st.integers(0, 99)))
    out = color_jitter(images, torch.tensor(factors), torch.tensor(order))
    for image, row, kinds, result in zip(images.numpy(), factors, order, out.numpy(), strict=True):
        assert np.abs(result - jittered(image, row, kinds)).max() <= 1  # half way between two


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("kind", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_brightness_contrast_and_saturation_are_those_of_pil(kind, enhance, factor):
    images = photos()
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(4, 1)
    factors[:, kind] = factor
    out = color_jitter(images, factors, torch.arange(4).repeat(4, 1))
    assert_levels(out, [enhance(as_pil(image)).enhance(factor) for image in images])
    if factor == 1:
        assert torch.equal(out, images)


def test_gray_images_have_brightness_and_contrast():
    images = photos(channels=1)
    factors = torch.tensor([1.3, 0.7, 1.9, 0.2]).repeat(4, 1)
    out = color_jitter(images, factors, torch.tensor([1, 0, 2, 3]).repeat(4, 1))
    for image, result in zip(images.numpy(), out.numpy(), strict=True):
        assert np.abs(result - jittered(image, (1.3, 0.7), (1, 0))).max() <= 1


def test_the_draws_of_color_jitter():
    spec = ColorJitter(brightness=0.5, contrast=0.1, saturation=0.0, hue=0.2, prob=0.8)
    draws = draws_for(Augment(color_jitter=spec))
    changed = draws.jitter[:, 0] != 1
    assert abs(changed.double().mean() - 0.8) < 0.02
    assert (draws.jitter[~changed] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all()
    assert (draws.jitter[:, 2] == 1).all()
    for column, (low, high) in ((0, (0.5, 1.5)), (1, (0.9, 1.1)), (3, (-0.2, 0.2))):
        values = draws.jitter[changed, column].numpy()
        assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4
    orders, counts = np.unique(draws.jitter_order.numpy(), axis=0, return_counts=True)
    assert len(orders) == 24  # every order, as often as any other
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


# --- TrivialAugment ---------------------------------------------------------------------------


def pil_op(image, op, level):
    """Apply one operation to a PIL image, as the authors' code does, but bilinearly."""
    bilinear, transform = Image.Resampling.BILINEAR, Image.Transform.AFFINE

    def moved(*coefficients):
        return image.transform(image.size, transform, coefficients, bilinear)

    match op:
        case trivial.SHEAR_X:
            return moved(1, level, 0, 0, 1, 0)
        case trivial.SHEAR_Y:
            return moved(1, 0, 0, level, 1, 0)
        case trivial.TRANSLATE_X:
            return moved(1, 0, level, 0, 1, 0)
        case trivial.TRANSLATE_Y:
            return moved(1, 0, 0, 0, 1, level)
        case trivial.ROTATE:
            return image.rotate(level, bilinear)
        case trivial.BRIGHTNESS:
            return ImageEnhance.Brightness(image).enhance(1 + level)
        case trivial.SATURATION:
            return ImageEnhance.Color(image).enhance(1 + level)
        case trivial.CONTRAST:
            return ImageEnhance.Contrast(image).enhance(1 + level)
        case trivial.SHARPNESS:
            return ImageEnhance.Sharpness(image).enhance(1 + level)
        case trivial.POSTERIZE:
            return ImageOps.posterize(image, 8 - round(level))
        case trivial.SOLARIZE:
            return ImageOps.solarize(image, level)
        case trivial.AUTOCONTRAST:
            return ImageOps.autocontrast(image)
        case trivial.EQUALIZE:
            return ImageOps.equalize(image)
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("op", range(trivial.NUM_OPS))
def test_each_operation_at_each_magnitude_is_that_of_pil(op, channels):
    bins = torch.arange(31).repeat(2)
    ops, sign = torch.full((62,), op), torch.tensor([1.0, -1.0]).repeat_interleave(31)
    strength = levels(ops, bins, sign)
    images = photos(n=62, channels=channels)
    out = trivial_augment(images, ops, strength)
    expected = [
        pil_op(as_pil(image), op, float(level))
        for image, level in zip(images, strength, strict=True)
    ]
    exact = op >= trivial.POSTERIZE and op != trivial.AUTOCONTRAST
    # PIL rounds the smooth image and the mean gray, which a factor near 2 doubles, and cuts
    # fractions of levels off, where a level here is the nearest.
    assert_levels(out, expected, most=0 if exact else 2)
    if op <= trivial.SHARPNESS:
        assert torch.equal(out[0], images[0])  # magnitude 0


def test_a_batch_of_all_operations_is_each_image_by_itself():
    images, ops = photos(n=56), torch.arange(14).repeat(4)
    strength = levels(ops, torch.arange(56) % 31, torch.ones(56))
    out = trivial_augment(images, ops, strength)
    for i in range(56):
        part = slice(i, i + 1)
        assert torch.equal(trivial_augment(images[part], ops[part], strength[part]), out[part])


def test_even_images_and_two_levels_are_left_alone_by_autocontrast_and_equalize():
    even = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    for op in (trivial.AUTOCONTRAST, trivial.EQUALIZE):
        assert torch.equal(trivial_augment(even, torch.tensor([op]), torch.zeros(1)), even)


def test_the_draws_of_trivial_augment_are_the_wide_table():
    draws = draws_for(Augment(trivial_augment="wide"))
    op, level = draws.trivial_op.numpy(), draws.trivial_level.numpy()
    assert scipy.stats.chisquare(np.bincount(op, minlength=14)).pvalue > 1e-4
    signed = {
        trivial.SHEAR_X: 0.99, trivial.SHEAR_Y: 0.99, trivial.TRANSLATE_X: 32.0,
        trivial.TRANSLATE_Y: 32.0, trivial.ROTATE: 135.0, trivial.BRIGHTNESS: 0.99,
        trivial.SATURATION: 0.99, trivial.CONTRAST: 0.99, trivial.SHARPNESS: 0.99,
    }  # fmt: skip
    for number, largest in signed.items():
        table = np.linspace(-largest, largest, 61)
        np.testing.assert_allclose(np.unique(level[op == number]), table, atol=1e-5)
    # From torchvision: 8 - (torch.arange(31) / (30 / 6)).round() bits are kept.
    cut = np.unique(level[op == trivial.POSTERIZE], return_counts=True)
    assert cut[0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert cut[1][0] < cut[1][1]  # three of 31 bins, and five
    solarize = np.unique(level[op == trivial.SOLARIZE])
    np.testing.assert_allclose(solarize, np.linspace(0, 255, 31), atol=1e-4)
    assert not level[op >= trivial.AUTOCONTRAST].any()


# --- erasing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["random", "mean", "zero"])
def test_erasing_fills_its_rectangle_alone(fill):
    spec, images = Augment(erasing=Erasing(fill=fill)), photos()
    noise = photos(seed=7) if fill == "random" else None
    erased = torch.tensor([[2, 3, 5, 4], [0, 0, 0, 0], [0, 0, 19, 23], [19, 23, 1, 1]])
    out = apply(images, Draws(erased=erased, noise=noise), spec, COLOR)
    for i, (top, left, height, width) in enumerate(erased.tolist()):
        expected = normalize(images[i : i + 1], COLOR)
        rectangle = (..., slice(top, top + height), slice(left, left + width))
        if fill == "random":
            expected[rectangle] = normalize(noise[i : i + 1], COLOR)[rectangle]
        elif fill == "mean":
            expected[rectangle] = 0
        else:
            expected[rectangle] = normalize(torch.zeros_like(images[:1]), COLOR)[rectangle]
        assert torch.equal(out[i], expected[0])


def torchvision_erased(spec, height, width, rng):
    """Draw one rectangle as torchvision's RandomErasing.get_params does; None if none fits."""
    for _ in range(10):
        area = height * width * rng.uniform(spec.min_area, spec.max_area)
        aspect = math.exp(rng.uniform(math.log(spec.min_ratio), math.log(spec.max_ratio)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    return None


def test_rectangles_are_drawn_as_torchvision_draws_them():
    spec = Erasing(prob=0.75, min_ratio=0.3, max_ratio=1 / 0.3)  # as likely tall as wide
    draws = draws_for(Augment(erasing=spec), n=8000, size=(24, 32))
    erased = draws.erased[draws.erased[:, 2] > 0].numpy()
    assert abs(len(erased) / 8000 - 0.75) < 0.025
    rng = np.random.default_rng(0)
    expected = np.array([torchvision_erased(spec, 24, 32, rng) for _ in range(6000)])
    for column in range(4):
        assert scipy.stats.ks_2samp(erased[:, column], expected[:, column]).pvalue > 1e-4
    counts = torch.bincount(draws.noise.flatten().int(), minlength=256)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4


# --- mixing -----------------------------------------------------------------------------------


def test_mixing_by_hand():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 4)
    labels = torch.tensor([7, 5, 5, 2])
    patch = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 0]])
    mixed, both = mix(images, labels, blend=torch.tensor([0.25, 1.0, 1.0]), patch=patch)
    assert mixed[0].unique().tolist() == [0.25]  # 0.25 * 1 + 0.75 * 0
    assert mixed[1, 0].tolist() == [[2, 1, 1, 1], [2, 1, 1, 1]]
    assert mixed[2].unique().tolist() == [3]
    assert both.first.tolist() == [5, 5, 2]
    assert both.second.tolist() == [7, 5, 5]
    assert both.share.tolist() == [0.25, 0.25, 1]
    assert both.larger().tolist() == [7, 5, 2]
    assert both.shares(8)[0].tolist() == [0, 0, 0, 0, 0, 0.25, 0, 0.75]
    assert both.shares(8)[1].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    parts = split_labels(both, 2)
    assert [part.first.tolist() for part in parts] == [[5, 5], [2]]
    assert [part.share.tolist() for part in parts] == [[0.25, 0.25], [1]]


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 8.0])
def test_mixup_shares_are_of_the_beta_distribution(alpha):
    blend = draws_for(Augment(mixup=MixUp(alpha=alpha))).blend.double().numpy()
    blend = blend[(blend > 1e-6) & (blend < 1 - 1e-6)]  # float32 has no more of the tails
    beta = scipy.stats.beta(alpha, alpha)
    low, high = beta.cdf(1e-6), beta.cdf(1 - 1e-6)
    assert scipy.stats.kstest(blend, lambda x: (beta.cdf(x) - low) / (high - low)).pvalue > 1e-4


def cutmix_patch(alpha, height, width, rng):
    """Draw one patch as rand_bbox of the authors' code does."""
    cut = math.sqrt(1 - rng.beta(alpha, alpha))
    cut_h, cut_w = int(height * cut), int(width * cut)
    y, x = rng.integers(height), rng.integers(width)
    top, left = max(y - cut_h // 2, 0), max(x - cut_w // 2, 0)
    return top, left, min(y + cut_h // 2, height) - top, min(x + cut_w // 2, width) - left


def test_patches_are_drawn_as_the_authors_draw_them():
    patch = draws_for(Augment(cutmix=CutMix(alpha=0.7)), n=6000, size=(24, 32)).patch.numpy()
    rng = np.random.default_rng(0)
    expected = np.array([cutmix_patch(0.7, 24, 32, rng) for _ in range(6000)])
    for column in range(4):
        assert scipy.stats.ks_2samp(patch[:, column], expected[:, column]).pvalue > 1e-4


def test_a_coin_takes_mixup_or_cutmix_for_a_batch():
    spec = Augment(mixup=MixUp(), cutmix=CutMix())
    kinds = []
    for seed in range(200):
        draws = draws_for(spec, n=16, seed=seed)
        cut, blended = bool(draws.patch[:, 2].any()), bool((draws.blend != 1).any())
        assert cut != blended
        kinds.append(cut)
    assert scipy.stats.binomtest(sum(kinds), 200).pvalue > 1e-4


def test_prob_leaves_the_rest_unmixed():
    spec = Augment(mixup=MixUp(prob=0.3))
    assert abs((draws_for(spec).blend != 1).double().mean() - 0.3) < 0.02
    patch = draws_for(Augment(cutmix=CutMix(prob=0.3)), size=(512, 512)).patch
    assert abs((patch[:, 2] > 0).double().mean() - 0.3) < 0.02


def test_what_is_not_mixed_stays_in_its_place():
    images, labels, rows = photos(n=40), torch.arange(40), torch.arange(40)
    run = {"rows": rows, "epoch": 0}
    plain = augment(images, OLD, COLOR, **run, generator=seeded())
    spec = OLD.model_copy(update={"mixup": MixUp(prob=0.5)})
    mixed, both = augment_labeled(images, labels, spec, COLOR, **run, generator=seeded())
    whole = both.share == 1
    assert 5 < whole.sum() < 35
    assert torch.equal(mixed[whole], plain[whole])
    assert torch.equal(both.first, labels)
    assert torch.equal(both.second, labels.roll(1))


def test_labels_are_mixed_as_much_as_pixels():
    """An image of one level a class: its mean tells the shares of its label."""
    labels = torch.arange(40) % 5
    images = (50 * labels).to(torch.uint8)[:, None, None, None].expand(40, 3, 16, 16)
    options = {"rows": torch.arange(40), "epoch": 0, "generator": seeded()}
    flat = Statistics(mean=(0.0,) * 3, std=(1.0,) * 3)
    for spec in (Augment(mixup=MixUp(alpha=1.0)), Augment(cutmix=CutMix())):
        mixed, both = augment_labeled(images, labels, spec, flat, **options)
        assert isinstance(both, MixedLabels)
        expected = both.shares(5) @ (50.0 * torch.arange(5)) / 255
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected)
        assert (both.share < 1).any()


# --- all together -----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [EVERYTHING, WINDOWS])
def test_an_image_depends_on_its_own_draws_alone(spec):
    images = photos(n=12)
    draws = draws_for(spec, n=12, size=(20, 24))
    whole = apply(images, draws, spec, COLOR)
    for i in range(12):
        alone = apply(images[i : i + 1], draws.select(slice(i, i + 1)), spec, COLOR)
        assert torch.equal(alone[0], whole[i])


def columns(labels):
    return labels if isinstance(labels, MixedLabels) else (labels,)


@pytest.mark.parametrize("spec", [OLD, EVERYTHING, WINDOWS])
def test_a_part_of_a_batch_is_the_same_part_of_the_result(spec):
    images, labels, rows = photos(n=11), torch.arange(11) % 4, torch.arange(11)

    def run(part):
        return augment_labeled(
            images, labels, spec, COLOR, rows=rows, epoch=2, generator=seeded(5), part=part
        )

    whole, all_labels = run(slice(None))
    for part in (slice(0, 4), slice(4, 8), slice(8, 11), slice(0, 11)):
        out, own_labels = run(part)
        assert torch.equal(out, whole[part])
        for own, mine in zip(columns(own_labels), columns(all_labels), strict=True):
            assert torch.equal(own, mine[part])


def test_a_new_transform_leaves_the_draws_of_the_rest_as_they_were():
    before, after = draws_for(OLD, n=50), draws_for(EVERYTHING, n=50)
    for name, value in vars(before).items():
        if value is not None:
            assert torch.equal(value, getattr(after, name)), name


@pytest.mark.parametrize("spec", [EVERYTHING, WINDOWS])
def test_neither_input_nor_global_generator_change(spec):
    images, state = photos(n=16), torch.get_rng_state()
    run = {"rows": torch.arange(16), "epoch": 1}
    out = augment(images, spec, COLOR, **run, generator=seeded())
    assert out.dtype == torch.float32
    assert out.shape == images.shape
    assert torch.equal(out, augment(images, spec, COLOR, **run, generator=seeded()))
    assert not torch.equal(out, augment(images, spec, COLOR, **run, generator=seeded(1)))
    assert torch.equal(images, photos(n=16))
    assert torch.equal(torch.get_rng_state(), state)


def test_gray_images_take_all_but_saturation_and_hue():
    images, run = photos(channels=1), {"rows": torch.arange(4), "epoch": 0}
    gray = ColorJitter(saturation=0.0, hue=0.0)
    spec = WINDOWS.model_copy(update={"hsv": None, "color_jitter": gray})
    assert augment(images, spec, GRAY, **run, generator=seeded()).shape == images.shape
    message = (
        "augment.color_jitter changes saturation and hue, but these images are gray; set "
        "augment.color_jitter.saturation=0 and augment.color_jitter.hue=0"
    )
    with refused(message):
        augment(images, WINDOWS.model_copy(update={"hsv": None}), GRAY, **run, generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spec", [EVERYTHING, WINDOWS])
def test_a_gpu_does_the_same_without_waiting(spec):
    images, draws = photos(n=64), draws_for(spec, n=64, size=(20, 24))
    expected = apply(images, draws, spec, COLOR)
    on_gpu = Draws(**{k: None if v is None else v.cuda() for k, v in vars(draws).items()})
    images, rows, generator = images.cuda(), torch.arange(64).cuda(), torch.Generator("cuda")
    options = {"rows": rows, "epoch": 0, "generator": generator}
    augment_labeled(images, rows, spec, COLOR, **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment_labeled(images, rows, spec, COLOR, **options, part=slice(5, 20))
        out = apply(images, on_gpu, spec, COLOR)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    off = (out.cpu() - expected).abs() > 1e-4  # half a level may be rounded either way
    assert off.double().mean() < 0.02
