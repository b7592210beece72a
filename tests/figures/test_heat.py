"""Heat maps over pictures: scale, smoothing, palette, and what the sheets say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch.nn import functional as F

from resight import figures
from resight.cam import Heatmaps
from resight.errors import UsageError
from resight.figures import LayerHeatmap, NeighborImages, SheetImages
from resight.figures.contact_sheet import side_of
from resight.figures.heat import blend_heatmap, positive_map, smoothed
from resight.metrics.mistakes import LabelIssue, mistakes
from resight.records import Predictions

CLASSES = ("cat", "dog", "<script>$x^2")


def predicted(n: int, *, labeled: bool = True) -> Predictions:
    """The first is wrong, a dog taken for a cat; the others are right, the runner-up a dog."""
    logits = np.tile(np.array([2.0, 1.0, 0.0], dtype=np.float32), (n, 1))
    labels = np.array([1] + [0] * (n - 1)) if labeled else np.full(n, -1)
    return Predictions(tuple(f"test/{i}.png" for i in range(n)), logits, labels, CLASSES)


def sheet_images(n: int, *, labeled: bool = True, channels: int = 3) -> SheetImages:
    pictures = np.random.default_rng(0).integers(0, 256, (n, 16, 16, channels), np.uint8)
    return SheetImages(
        pictures, predicted(n, labeled=labeled), np.arange(n), np.ones(n, dtype=np.int64)
    )


def heat(n: int, size: int = 7, layer: str = "block2") -> LayerHeatmap:
    maps = np.random.default_rng(1).normal(size=(n, 2, size, size)).astype(np.float32)
    return LayerHeatmap(layer, maps)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_evidence_is_what_the_heat_maps_call_normalized() -> None:
    maps = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    maps[1] = -1
    heatmaps = Heatmaps({"a": maps}, torch.zeros(4, 2), torch.zeros(4, 3), "", (32, 32), ())
    np.testing.assert_allclose(positive_map(maps.numpy()), heatmaps.normalized("a"), rtol=1e-6)
    upsampled = smoothed(positive_map(maps.numpy()), 32, 32)
    np.testing.assert_allclose(upsampled, heatmaps.upsampled("a"), atol=1e-6)


def test_one_scale_for_both_classes_by_hand() -> None:
    maps = np.array([[[[4.0, -3.0]], [[1.0, 2.0]]]])
    assert positive_map(maps).tolist() == [[[[1.0, 0.0]], [[0.25, 0.5]]]]
    assert positive_map(-np.abs(maps)).max() == 0


@pytest.mark.parametrize("size", [(3, 3, 32, 32), (15, 15, 32, 32), (7, 5, 20, 31), (1, 1, 4, 4)])
def test_smoothing_is_bilinear(size: tuple[int, int, int, int]) -> None:
    h, w, height, width = size
    maps = torch.rand(2, h, w, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(smoothed(maps.numpy(), height, width), expected, atol=1e-6)


def test_an_overlay_without_evidence_is_the_gray_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    blank = blend_heatmap(picture, np.zeros((3, 3), dtype=np.float32))
    assert blank.shape == (128, 128, 3)
    gray = np.rint(picture @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_array_equal(blank[::8, ::8, 0], gray)
    assert (blank == blank[:, :, :1]).all()
    hot = blend_heatmap(picture, np.ones((3, 3), dtype=np.float32)).astype(int)
    assert (hot[..., 0] > hot[..., 2]).all()  # yellow, not blue


def test_a_map_of_few_cells_shows_its_cells_and_a_finer_one_is_smooth() -> None:
    picture = np.full((20, 20, 1), 90, dtype=np.uint8)
    for side, colors in ((4, 5), (5, None)):  # each cell, and the edges between two of 0
        maps = np.zeros((side, side), dtype=np.float32)
        maps[0, :3] = 0.2, 0.6, 1
        drawn = blend_heatmap(picture, maps).reshape(-1, 3)
        seen = len(np.unique(drawn, axis=0))
        assert seen > 50 if colors is None else colors <= seen <= 2 * colors, seen


def test_the_palette_grows_brighter_all_the_way() -> None:
    ramp = np.linspace(0, 1, 200, dtype=np.float32)[None]
    colors = blend_heatmap(np.zeros((1, 200, 1), dtype=np.uint8), ramp)[0] @ [
        0.2126,
        0.7152,
        0.0722,
    ]
    assert (np.diff(colors) >= -0.5).all()  # rounding
    assert colors[-1] - colors[0] > 150


def test_a_sheet_names_classes_and_layers() -> None:
    coarse = LayerHeatmap("block3", np.full((3, 2, 3, 3), -1, dtype=np.float32))
    figure = figures.heat_sheet(sheet_images(3), [heat(3), coarse], "Misclassified: grad-cam")
    text = words(figure)
    for expected in (
        "Misclassified: grad-cam",
        "block2 7x7",
        "block3 3x3",
        "✗ 67 %  cat",
        "true 24 %  dog",
        "✓ 67 %  cat",
        "runner-up 24 %  dog",
        "test/2.png",
        "block3 3x3: a cell covers 5.33 px; with under 5x5 cells a map is too coarse to say where",
        '"none": all evidence for that class is negative or 0',
    ):
        assert expected in text
    assert text.count("none") == 3 * 2 + 1  # each map of block3, and the legend
    assert len(figure.axes[0].images) == 3 * (1 + 2 * 2) + 1


def test_a_fine_map_needs_no_note() -> None:
    maps = np.abs(heat(2, 5).maps)
    assert not [
        t
        for t in words(figures.heat_sheet(sheet_images(2), [LayerHeatmap("a", maps)], ""))
        if ":" in t
    ]


def test_pictures_without_truth_are_neither_right_nor_wrong() -> None:
    text = words(figures.heat_sheet(sheet_images(2, labeled=False), [heat(2)], ""))
    assert text.count("67 %  cat") == 2
    assert not [t for t in text if "✓" in t or "✗" in t or "true" in t]


def test_a_strip_names_the_class_over_every_map() -> None:
    figure = figures.heat_strip(
        sheet_images(1, channels=1), [heat(1), heat(1, 4, "block3")], "photo.png"
    )
    text = words(figure)
    assert text.count("for cat (predicted)") == 2
    assert text.count("for dog (true)") == 2
    assert len(figure.axes[0].images) == 1 + 2 * 2 + 1
    with pytest.raises(UsageError, match="one picture, not 2"):
        figures.heat_strip(sheet_images(2), [heat(2)], "")


def test_sheets_of_nothing_say_so() -> None:
    empty = sheet_images(2)
    none = SheetImages(empty.pictures[:0], empty.predictions, empty.rows[:0], empty.others[:0])
    assert "none of these pictures" in words(figures.heat_sheet(none, [], "Misclassified"))
    assert "no mistakes" in words(figures.pair_sheet(empty.pictures[:0], predicted(2), [], ""))


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"for 3 rows they must be \(3, 2, 7, 7\)"):
        figures.heat_sheet(sheet_images(3), [heat(2)], "")
    three = sheet_images(3)
    uneven = SheetImages(three.pictures[:2], three.predictions, three.rows, three.others)
    with pytest.raises(UsageError, match=r"the pictures are .*; for 3 rows they must be"):
        figures.heat_sheet(uneven, [], "")


def test_pairs_by_frequency() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]] * 3
    labels = np.array([1, 1, 0, 2, 2])
    predictions = Predictions(tuple("abcde"), logits, labels, CLASSES)
    worst = mistakes(predictions)
    assert figures.pair_rows(worst).tolist() == [0, 1, 3]
    assert figures.pair_rows(worst, columns=1).tolist() == [0, 3]
    assert figures.pair_rows([]).tolist() == []
    pictures = np.arange(2, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    figure = figures.pair_sheet(pictures, predictions, worst, "Mistakes", pairs=1, notes=["seen"])
    text = words(figure)
    assert "2 of 2: dog taken for cat" in text
    assert "91 % sure" in text
    assert "3 mistakes of 5 images in 2 pairs; the 1 most frequent pairs hold 2" in text
    assert "seen" in text
    drawn = [np.asarray(image.get_array()).max() for image in figure.axes[0].images]
    assert drawn == [0, 1]
    with pytest.raises(UsageError, match="2 pictures but 3 mistakes to show"):
        figures.pair_sheet(pictures, predictions, worst, "")


def test_suspicious_labels_beside_their_neighbors() -> None:
    label = LabelIssue(0, "test/0.png", "cat", "dog", 0.02, 0.9, -0.88)
    side = NeighborImages(np.zeros((3, 8, 8, 1), dtype=np.uint8), ("a", "b", "c"), (0.9, 0.8, 0.7))
    pictures = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    figure = figures.label_issue_sheet(pictures, [label], [(side, side)], "Is it the label?")
    text = words(figure)
    for expected in ("labeled cat", "suggested dog", "the model says 90 %", "0.80  b"):
        assert expected in text
    assert len(figure.axes[0].images) == 7
    alone = figures.label_issue_sheet(pictures, [label], [], "")
    assert len(alone.axes[0].images) == 1
    with pytest.raises(UsageError, match="give one of each a label"):
        figures.label_issue_sheet(pictures, [label, label], [], "")


def test_photos_are_drawn_pixel_by_pixel_and_maps_over_all_of_it() -> None:
    images = sheet_images(2)
    large = images.pictures.repeat(14, axis=1).repeat(14, axis=2)  # 224 px
    photos = replace(images, pictures=large, seen_px=16, notes=("shown at up to 224 px",))
    for draw, n in ((figures.heat_sheet, 2), (figures.heat_strip, 1)):
        usual, wide = (draw(first_of(one, n), [heat(n, 4)], "") for one in (images, photos))
        assert wide.get_figheight() > usual.get_figheight()
        for figure, px in ((usual, 128), (wide, 224)):
            overlay = figure.axes[0].images[1]
            left, right, *_ = overlay.get_extent()
            assert np.asarray(overlay.get_array()).shape[1] == px
            assert (right - left) * figure.dpi >= px - 1e-6
        text = words(wide)
        assert "shown at up to 224 px" in text
        assert any("a cell covers 4 of these 16 px" in line for line in text)
        assert any("a cell covers 4 px" in line for line in words(usual))
    assert side_of(large, 0.8) == 1.4
    assert side_of(large[:, :100, :100], 0.8) == 0.8
    assert side_of(large[:, :160, :160], 0.8) == 1.0


def first_of(images: SheetImages, n: int) -> SheetImages:
    return replace(
        images, pictures=images.pictures[:n], rows=images.rows[:n], others=images.others[:n]
    )


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = (tmp_path / f"{i}.png" for i in range(2))
    for path in (first, second):
        figures.save(figures.heat_sheet(sheet_images(2), [heat(2)], "$x$"), path)
    assert first.read_bytes() == second.read_bytes()


def test_deletion_and_insertion_are_beside_each_picture() -> None:
    areas = np.array([[0.123, 0.9], [0.5, 0.25]], dtype=np.float32)
    known = LayerHeatmap("a", np.abs(heat(2).maps), areas)
    text = words(figures.heat_sheet(sheet_images(2), [known, heat(2)], ""))
    assert text.count("deletion 0.12   insertion 0.90") == 1
    assert text.count("deletion 0.50   insertion 0.25") == 1
    assert "low deletion and high insertion are good" in " ".join(text)
    strip = words(
        figures.heat_strip(sheet_images(1), [LayerHeatmap("a", heat(1).maps, areas[:1])], "")
    )
    assert "deletion 0.12   insertion 0.90" in strip
    with pytest.raises(UsageError, match=r"for 2 rows they must be \(2, 2\)"):
        figures.heat_sheet(sheet_images(2), [LayerHeatmap("a", heat(2).maps, areas[:1])], "")


def test_a_sheet_that_is_too_wide_to_draw_is_refused() -> None:
    with pytest.raises(UsageError, match="show fewer layers"):
        figures.heat_sheet(sheet_images(1), [heat(1)] * 300, "")
