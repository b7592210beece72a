"""Every transform against a slow reference for one image or one pixel."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal import refused
from resight.datasets import Statistics
from resight.datasets.augment import augment, check_augment, denormalize, normalize
from resight.datasets.augment.color import shift_hsv
from resight.datasets.augment.draws import Draws, draw
from resight.datasets.augment.geometry import crop_flip, rotation, warp
from resight.datasets.augment.pipeline import apply
from resight.recipe import HSV, Augment, Crop, Cutout, Rotate

COLOR = Statistics(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
GRAY = Statistics(mean=(0.31,), std=(0.37,))
EVERYTHING = Augment(hsv=HSV(), rotate=Rotate(), crop=Crop(), flip="random", cutout=Cutout())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=4, channels=3, height=12, width=12, seed=0):
    shape = (n, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def draws_for(spec, n=20_000, size=(16, 20), seed=0, epoch=0):
    shape = (n, 3, *size)
    return draw(spec, shape, rows=torch.arange(n), epoch=epoch, seed=0, generator=seeded(seed))


# --- references for one image, (C, H, W) as a NumPy array of levels ----------------------------


def hsv_of_pixel(pixel, shift):
    """Convert RGB to HSV in integers, as OpenCV does for 8 bits, and back in exact fractions."""
    r, g, b = map(int, pixel)
    v, spread = max(r, g, b), max(r, g, b) - min(r, g, b)
    s = (spread * round(Fraction(255 << 12, max(v, 1))) + 2048) >> 12
    offset = g - b if v == r else b - r + 2 * spread if v == g else r - g + 4 * spread
    h = ((offset * round(Fraction(180 << 12, 6 * max(spread, 1))) + 2048) >> 12) % 180

    h = (h + shift[0]) % 180
    s, v = (min(255, max(0, x + by)) for x, by in ((s, shift[1]), (v, shift[2])))

    sector, part = divmod(Fraction(h, 30), 1)
    saturation = Fraction(s, 255)
    p = v * (1 - saturation)
    falling, rising = v * (1 - saturation * part), v * (1 - saturation * (1 - part))
    table = [(v, rising, p), (falling, v, p), (p, v, rising)]
    table += [(p, falling, v), (rising, p, v), (v, p, falling)]
    return [round(x) for x in table[int(sector)]]


def hsv_of_image(image, shift):
    if not any(shift):
        return image
    return np.apply_along_axis(hsv_of_pixel, 0, image, shift)


def mirrored(position, size):
    while not 0 <= position <= size - 1:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


def rotate_image(image, angle_deg):
    _, height, width = image.shape
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    out = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            dx, dy = x - (width - 1) / 2, y - (height - 1) / 2
            sx = mirrored((width - 1) / 2 + dx * cos - dy * sin, width)
            sy = mirrored((height - 1) / 2 + dx * sin + dy * cos, height)
            x0, y0 = min(int(sx), width - 2), min(int(sy), height - 2)
            u, v = sx - x0, sy - y0
            top = image[:, y0, x0] * (1 - u) + image[:, y0, x0 + 1] * u
            low = image[:, y0 + 1, x0] * (1 - u) + image[:, y0 + 1, x0 + 1] * u
            out[:, y, x] = np.round(top * (1 - v) + low * v)
    return out


def augment_image(image, spec, stats, i, draws):
    """Apply all transforms to image i of the batch; return normalized float64."""
    image = image.astype(int)
    fills = {"mean": 255 * np.array(stats.mean), "zero": np.zeros(len(stats.mean))}
    if spec.hsv:
        image = hsv_of_image(image, draws.hsv[i].tolist())
    if spec.rotate:
        image = rotate_image(image, float(draws.angle_deg[i]))
    image = image.astype(float)
    if spec.crop:
        (down, right), pad = draws.crop[i].tolist(), spec.crop.pad
        _, height, width = image.shape
        sides = ((pad, pad), (pad, pad))
        if spec.crop.fill == "reflect":
            padded = np.pad(image, ((0, 0), *sides), mode="reflect")
        else:
            planes = zip(image, fills[spec.crop.fill], strict=True)
            padded = np.stack([np.pad(p, sides, constant_values=level) for p, level in planes])
        image = padded[:, pad + down : pad + down + height, pad + right : pad + right + width]
    if spec.flip and draws.flip[i]:
        image = image[:, :, ::-1]
    if spec.cutout:
        image = image.copy()
        for top, left, side in draws.holes[i].tolist():
            hole = (slice(None), slice(top, top + side), slice(left, left + side))
            image[hole] = fills[spec.cutout.fill][:, None, None]
    mean, std = (np.array(x)[:, None, None] for x in (stats.mean, stats.std))
    return (image / 255 - mean) / std


@st.composite
def cases(draw_from):
    channels = draw_from(st.sampled_from([1, 3]))
    height, width = draw_from(st.integers(8, 13)), draw_from(st.integers(8, 13))
    off = st.none()
    low, high = sorted([draw_from(st.integers(1, 7)), draw_from(st.integers(1, 7))])
    prob = st.sampled_from([0.5, 1.0])
    fill = st.sampled_from(["zero", "mean"])
    cutout = st.builds(
        Cutout, count=st.integers(1, 3), min_px=st.just(low), max_px=st.just(high),
        prob=prob, fill=fill,
    )  # fmt: skip
    crop = st.builds(Crop, pad=st.integers(1, 7), fill=st.just("reflect") | fill)
    spec = Augment(
        hsv=draw_from(off | st.builds(HSV, prob=prob)) if channels == 3 else None,
        rotate=draw_from(off | st.builds(Rotate, limit_deg=st.floats(1, 180), prob=prob)),
        crop=draw_from(off | crop),
        flip=draw_from(st.sampled_from([None, "random", "alternating"])),
        cutout=draw_from(off | cutout),
    )
    shape = (draw_from(st.integers(1, 3)), channels, height, width)
    return shape, spec, draw_from(st.integers(0, 2**31))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_batch_equals_the_reference_image_by_image(case):
    shape, spec, seed = case
    images, stats = noise(*shape, seed=seed), COLOR if shape[1] == 3 else GRAY
    rows = torch.arange(shape[0])
    draws = draw(spec, shape, rows=rows, epoch=1, seed=seed, generator=seeded(seed))
    out = apply(images, draws, spec, stats)
    same = augment(images, spec, stats, rows=rows, epoch=1, seed=seed, generator=seeded(seed))
    assert torch.equal(out, same)
    assert out.dtype == torch.float32
    assert out.shape == shape
    expected = np.stack(
        [augment_image(image, spec, stats, i, draws) for i, image in enumerate(images.numpy())]
    )
    levels = np.abs(out.numpy() - expected) * 255 * np.array(stats.std)[:, None, None]
    # A rotated pixel that falls half way between two levels may be rounded either way.
    assert (levels > 1e-3).mean() <= (0.02 if spec.rotate else 0)
    assert levels.max() < 1.01


# --- each transform by hand -------------------------------------------------------------------

# (RGB, shift of hue, saturation, value, RGB) as OpenCV 4.10 and 5.0 compute it for one pixel.
OPENCV = [
    ((200, 30, 30), (10, 0, 0), (200, 87, 30)),
    ((12, 200, 90), (-20, 30, -20), (48, 180, 0)),
    ((40, 60, 220), (90, 0, 0), (220, 202, 40)),
    ((128, 128, 128), (20, 30, 20), (148, 142, 131)),
    ((255, 255, 255), (-5, 30, 20), (255, 225, 230)),
    ((0, 0, 0), (5, 30, 20), (20, 18, 18)),
    ((250, 240, 10), (0, -255, 0), (250, 250, 250)),
    ((1, 2, 3), (-90, 255, 255), (255, 128, 0)),
    ((171, 206, 5), (56, -4, 2), (8, 201, 208)),
    ((161, 73, 250), (-81, -27, -14), (122, 236, 93)),
    ((146, 104, 33), (-82, -60, -55), (42, 47, 91)),
    ((38, 255, 48), (28, 30, -32), (7, 223, 216)),
]


def test_hsv_agrees_with_opencv():
    before, shift, after = (torch.tensor(column) for column in zip(*OPENCV, strict=True))
    out = shift_hsv(before.to(torch.uint8)[..., None, None], shift)
    assert out[..., 0, 0].tolist() == after.tolist()


def test_rotation_turns_counter_clockwise_about_the_center():
    images = noise(n=3)
    turned = warp(images, rotation(torch.tensor([90.0, 180.0, -90.0])))
    for image, expected, quarters in zip(turned, images, (1, 2, 3), strict=True):
        assert torch.equal(image, expected.rot90(quarters, (1, 2)))


def test_crop_shifts_the_window_down_and_right_and_flip_mirrors_it():
    images = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3)
    out, outside = crop_flip(images, torch.tensor([[1, -1]]), torch.tensor([True]))
    assert out[0, 0].tolist() == [[4, 3, 4], [7, 6, 7], [4, 3, 4]]
    assert outside[0, 0].int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_fills_are_black_or_exactly_zero_after_normalizing(fill):
    spec = Augment(crop=Crop(fill=fill), cutout=Cutout(count=3, min_px=2, max_px=6, fill=fill))
    images = torch.full((64, 3, 12, 12), 200, dtype=torch.uint8)
    rows = torch.arange(64)
    out = augment(images, spec, COLOR, rows=rows, epoch=0, generator=seeded())
    black, original = (normalize(torch.full_like(images, x), COLOR) for x in (0, 200))
    is_filled = out == (0 if fill == "mean" else black)
    is_original = out == original
    assert (is_filled | is_original).all()
    assert is_filled.any()
    assert is_original.any()


def test_a_black_cutout_over_a_mean_border_is_black():
    spec = Augment(crop=Crop(fill="mean"), cutout=Cutout(fill="zero"))
    draws = Draws(crop=torch.tensor([[4, 4]]), holes=torch.tensor([[[6, 6, 4]]]))
    images = noise(n=1)
    out = apply(images, draws, spec, COLOR)[0]
    assert torch.equal(out[:, 6:10, 6:10], normalize(torch.zeros_like(images), COLOR)[0, :, :4, :4])
    assert (out[:, 10:, :] == 0).all()


# --- normalize --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1e-3, 1)), min_size=1, max_size=3))
def test_denormalize_undoes_normalize_for_every_level(channels):
    mean, std = zip(*channels, strict=True)
    stats = Statistics(mean=mean, std=std)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, len(mean), 1, 1)
    normalized = normalize(levels, stats)
    assert torch.equal(denormalize(normalized, stats), levels)
    mean, std = (torch.tensor(x)[:, None, None] for x in (mean, std))
    by_hand = (levels / 255 - mean) / std
    torch.testing.assert_close(normalized, by_hand, rtol=1e-5, atol=1e-4)


def test_denormalize_clips_and_takes_images_that_carry_gradients():
    images = torch.tensor([-99.0, 99.0], requires_grad=True).view(1, 1, 1, 2)
    assert denormalize(images, GRAY).flatten().tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise().float(), "images are float32; give uint8 (N, C, H, W), levels 0 to 255"),
        (noise(channels=1), "images have the shape (4, 1, 12, 12), but the statistics are for "
         "(N, 3, H, W); compute them from these images"),
    ],
)  # fmt: skip
def test_normalize_refuses_floats_and_other_channels(images, message):
    with refused(message):
        normalize(images, COLOR)


# --- the draws --------------------------------------------------------------------------------


def assert_uniform(values, low, high):
    """Check that only low..high occur, each within five standard deviations of its share."""
    values = values.flatten()
    assert values.min() == low
    assert values.max() == high
    p = 1 / (high - low + 1)
    counts = torch.bincount(values - low)
    assert ((counts - len(values) * p).abs() < 5 * math.sqrt(len(values) * p * (1 - p))).all()


def assert_share(mask, p):
    assert abs(mask.double().mean() - p) < 5 * math.sqrt(p * (1 - p) / len(mask))


def assert_uncorrelated(values):
    """Check neighboring images, and the columns of a draw, for correlation."""
    columns = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    lagged = torch.corrcoef(torch.cat([columns[1:], columns[:-1]], dim=1).T)
    off_diagonal = lagged - torch.diag(torch.diag(lagged))
    assert off_diagonal.abs().max() < 5 / math.sqrt(len(columns))


def test_crop_and_random_flip_draws():
    draws = draws_for(Augment(crop=Crop(pad=3), flip="random"))
    assert_uniform((draws.crop[:, 0] + 3) * 7 + draws.crop[:, 1] + 3, 0, 48)  # all 49 windows
    assert_share(draws.flip, 0.5)
    assert_uncorrelated(torch.cat([draws.crop, draws.flip[:, None]], dim=1))


def test_hsv_draws():
    shift = draws_for(Augment(hsv=HSV(hue=4, saturation=3, value=2, prob=0.3))).hsv
    chosen = shift.any(dim=1)
    all_zero = 0.3 / (9 * 7 * 5)
    assert_share(chosen, 0.3 - all_zero)
    index = (shift + torch.tensor([4, 3, 2])) @ torch.tensor([35, 5, 1])
    assert set(index.tolist()) == set(range(9 * 7 * 5))
    assert_share(index == 0, 0.3 / 315)
    assert_uncorrelated(shift[chosen])


def test_rotate_draws():
    angle = draws_for(Augment(rotate=Rotate(limit_deg=40.0, prob=0.75))).angle_deg
    chosen = angle != 0
    assert_share(chosen, 0.75)
    assert angle.abs().max() < 40
    assert_uniform(((angle[chosen] + 40) / 10).floor().long(), 0, 7)
    assert_uncorrelated(angle)
    assert_uncorrelated(chosen)


def test_cutout_draws():
    spec = Augment(cutout=Cutout(count=2, min_px=3, max_px=6, prob=0.6))
    holes = draws_for(spec, size=(16, 20)).holes
    sides = holes[:, :, 2]
    cut = sides[:, 0] > 0
    assert torch.equal(cut, sides[:, 1] > 0)  # both holes of an image or none
    assert_share(cut, 0.6)
    assert_uniform(sides[cut], 3, 6)
    for side in range(3, 7):
        top, left = holes[cut][sides[cut] == side][:, :2].unbind(1)
        assert_uniform(top, 0, 16 - side)  # every place inside
        assert_uniform(left, 0, 20 - side)
    assert_uncorrelated(sides[cut])
    same_side = draws_for(Augment(cutout=Cutout(count=2, min_px=5, max_px=5))).holes
    assert_uncorrelated(same_side[:, :, :2])


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs():
    spec = Augment(flip="alternating")
    flips = [draws_for(spec, epoch=e, seed=e).flip for e in range(4)]
    for flip, next_flip in itertools.pairwise(flips):
        assert torch.equal(flip, ~next_flip)
    assert_share(flips[0], 0.5)
    assert_uncorrelated(flips[0])


def test_row_and_seed_alone_decide_the_alternating_flip():
    spec, generator = Augment(flip="alternating"), seeded()
    rows, state = torch.randperm(4000, generator=seeded()), generator.get_state()

    def flips(rows, seed):
        shape = (len(rows), 1, 8, 8)
        return draw(spec, shape, rows=rows, epoch=0, seed=seed, generator=generator).flip

    in_order = flips(torch.arange(4000), 7)
    assert torch.equal(flips(rows, 7), in_order[rows])
    assert torch.equal(flips(rows[:10], 7), in_order[rows[:10]])
    for seed in (0, 1, 8, 7 + 2**31):
        assert_share(flips(torch.arange(4000), seed) == in_order, 0.5)
    assert torch.equal(generator.get_state(), state)


def test_only_the_given_generator_is_used():
    images, rows, before = noise(n=32), torch.arange(32), torch.get_rng_state()

    def run(generator):
        return augment(images, EVERYTHING, COLOR, rows=rows, epoch=0, generator=generator)

    generator = seeded(1)
    first, second = run(generator), run(generator)
    assert torch.equal(first, run(seeded(1)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, run(seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("spec", [Augment(), EVERYTHING, Augment(cutout=Cutout(fill="zero"))])
def test_the_input_does_not_change(spec):
    images, rows = noise(n=16), torch.arange(16)
    augment(images, spec, COLOR, rows=rows, epoch=1, generator=seeded()).zero_()
    assert torch.equal(images, noise(n=16))
    assert torch.equal(rows, torch.arange(16))


# --- recipes that cannot apply ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        (Augment(hsv=HSV()), 1, "augment.hsv needs color images, but these have 1 channel; "
         "set augment.hsv=none"),
        (Augment(crop=Crop(pad=12)), 3, "augment.crop.pad = 12 must be less than the image size, "
         "12 px; set augment.crop.pad=1"),
        (Augment(cutout=Cutout(max_px=13)), 3, "augment.cutout.max_px = 13 must be less than the "
         "image size, 12 px; set augment.cutout.max_px=3 and augment.cutout.min_px no higher"),
    ],
)  # fmt: skip
def test_a_refusal_has_the_fix(spec, channels, message):
    images, stats = noise(channels=channels, width=15), COLOR if channels == 3 else GRAY
    with refused(message):
        augment(images, spec, stats, rows=torch.arange(4), epoch=0, generator=seeded())


def test_the_largest_crop_and_cutout_are_accepted():
    check_augment(Augment(crop=Crop(pad=11), cutout=Cutout(max_px=11)), channels=1, image_size=12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_does_the_same_without_waiting():
    spec = EVERYTHING.model_copy(update={"rotate": None})  # may be rounded either way
    images, draws = noise(n=64), draws_for(spec, n=64, size=(12, 12))
    expected = apply(images, draws, spec, COLOR)
    on_gpu = Draws(**{k: None if v is None else v.cuda() for k, v in vars(draws).items()})
    images, rows, generator = images.cuda(), torch.arange(64).cuda(), torch.Generator("cuda")
    augment(images, EVERYTHING, COLOR, rows=rows, epoch=0, generator=generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, EVERYTHING, COLOR, rows=rows, epoch=0, generator=generator)
        out = apply(images, on_gpu, spec, COLOR)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-5)
