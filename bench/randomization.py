"""Do heat maps depend on what a network learned? The figures and tables of docs/heatmaps.md.

    python bench/randomization.py RUN --data PATH_OR_NAME     # a trained swift run, and its data

Model randomization (Adebayo et al. 2018, arXiv 1810.03292, cascading): the weights of a trained
network are shuffled within each tensor, from the last stage to the first, and the maps for the
class that it predicted are compared with those from before, by Spearman's rank correlation of
their cells, the mean over images. Where maps stay alike they tell of the image, not of the model.

Then deletion and insertion areas of each method, beside those of a random map.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import resight
from measure import write_json
from resight.cam import METHODS
from resight.datasets import Split, Statistics
from resight.datasets.augment import normalize
from resight.figures.heat import LayerHeatmap, SheetImages, heat_sheet
from resight.figures.style import house_style, save
from resight.metrics.classification import top_losses
from resight.runs.checkpoint import load_model
from resight.training.predict import predict_split

STAGES = ("head", "block3", "block2", "block1", "whiten")  # from the logits to the image
LAYER = "block2"  # 7x7 cells at 32 px
QUICK = tuple(m for m in METHODS if m not in ("score-cam", "ablation-cam", "finer-cam"))


def shuffle(module: nn.Module, generator: torch.Generator) -> None:
    """Permute the values within each parameter and running statistic."""
    with torch.no_grad():
        for values in (*module.parameters(), *module.buffers()):
            if values.is_floating_point():
                order = torch.randperm(values.numel(), generator=generator)
                values.copy_(values.flatten()[order].reshape(values.shape))


def correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's of maps (N, h, w), the mean over images; a constant map counts as 0."""
    ranks = [m.flatten(1).argsort(1).argsort(1).double() for m in (a, b)]
    ranks = [r - r.mean(1, keepdim=True) for r in ranks]
    varied = (a.flatten(1).std(1) > 0) & (b.flatten(1).std(1) > 0)
    lengths = ranks[0].norm(dim=1) * ranks[1].norm(dim=1)
    return float(((ranks[0] * ranks[1]).sum(1) / lengths * varied).mean())


def cascade(model: nn.Module, images: Tensor, seed: int) -> dict[str, list[float]]:
    """Method -> correlation with the trained network's maps after each more stage is shuffled."""
    first = {m: resight.heatmaps(model, images, LAYER, method=m) for m in QUICK}
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {m: [] for m in QUICK}
    for stage in STAGES:
        shuffle(model.get_submodule(stage), generator)
        for method, before in first.items():
            after = resight.heatmaps(model, images, LAYER, before.classes[:, 0], method)
            maps = (before.maps[LAYER][:, 0], after.maps[LAYER][:, 0])
            found[method].append(correlation(*maps))
    return found


@house_style()
def cascade_figure(found: Mapping[str, list[float]]) -> Figure:
    """A line a method, from the trained network to one that knows nothing."""
    figure = Figure(figsize=(6.0, 3.4))
    axes = figure.add_subplot()
    names = ["trained", *(f"+ {stage}" if i else stage for i, stage in enumerate(STAGES))]
    marks = ("o", "s", "^", "v", "D", "P", "X")
    colors = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
    for (method, values), mark, color in zip(found.items(), marks, colors, strict=False):
        axes.plot(names, [1.0, *values], marker=mark, markersize=4, color=color, label=method)
    axes.axhline(0, color="#595959", linewidth=0.8)
    axes.set_xlabel("stages whose weights are shuffled")
    axes.set_ylabel("rank correlation with the\ntrained network's maps")
    axes.legend(fontsize=8, ncols=2)
    return figure


def trust(model: nn.Module, images: Tensor) -> dict[str, dict[str, float]]:
    """Mean deletion and insertion area of each method's maps, and of random ones."""
    areas = {}
    for method in (*QUICK, "random"):
        maps = resight.heatmaps(
            model, images, LAYER, method=QUICK[0] if method == "random" else method
        )
        if method == "random":
            generator = torch.Generator().manual_seed(0)
            noise = torch.rand(maps.maps[LAYER].shape, generator=generator)
            maps = dataclasses.replace(maps, maps={LAYER: noise})
        found = resight.faithfulness(model, images, maps)
        areas[method] = {
            "deletion": round(float(found.deletion.mean()), 3),
            "insertion": round(float(found.insertion.mean()), 3),
        }
    return areas


def mistakes_figure(
    model: nn.Module, test: Split, stats: Statistics, classes: tuple[str, ...], n: int
) -> Figure:
    """The n mistakes with the largest loss, for the predicted and the true class."""
    predictions = predict_split(model, test, stats, classes=classes)
    rows = top_losses(predictions)[:n]
    chosen = test.select(torch.from_numpy(rows))
    maps = resight.heatmaps(
        model,
        normalize(chosen.images, stats),
        ["block1", "block2"],
        ("predicted", chosen.labels),
        "layercam",
    )
    shown = SheetImages(
        pictures=chosen.images.permute(0, 2, 3, 1).numpy(),
        predictions=predictions,
        rows=rows,
        others=np.asarray(chosen.labels.numpy()),
    )
    heats = [LayerHeatmap(name, values.numpy()) for name, values in maps.maps.items()]
    return heat_sheet(shown, heats, "LayerCAM of the worst mistakes")


def publish(figure: Figure, path: Path) -> None:
    """Save with few colors, which is a third of the bytes."""
    save(figure, path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(200, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main() -> None:
    """Parse the arguments, draw, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    model, info = load_model(arguments.run, None, torch.device("cpu"))
    test = resight.data(arguments.data).test
    images = normalize(test.images[: arguments.images], info.stats)
    worst = mistakes_figure(model, test, info.stats, info.classes, 5)
    publish(worst, arguments.out / "heatmaps.png")
    areas = trust(model, images[:100])
    runs = []
    for seed in range(arguments.seeds):
        fresh, _ = load_model(arguments.run, None, torch.device("cpu"))
        runs.append(cascade(fresh, images, seed))
    mean = {m: np.mean([run[m] for run in runs], axis=0).round(2).tolist() for m in QUICK}
    publish(cascade_figure(mean), arguments.out / "randomization.png")
    write_json({"layer": LAYER, "stages": STAGES, "correlation": mean, "areas": areas})


if __name__ == "__main__":
    main()
