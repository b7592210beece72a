"""Milliseconds for heat maps of a batch: resight against torchcam and captum.

    python bench/cam.py                       # three networks, 128 images of 32 px, two threads

All sides use one model and one batch, float32. Each gives Grad-CAM maps for the true class,
normalized to [0, 1] and enlarged to the image: at the last layer; at the last layer for all ten
classes; and at four layers for two classes. The others are measured with the images as they come,
as their documents show it, and in channels_last, which resight chooses by itself on a CPU. torchcam
is also asked for all classes from one forward pass, by `retain_graph=True`. Before anything is
measured, the maps of all sides are compared.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torchcam.methods import GradCAM

import resight
from measure import in_turn, machine, parsed, spread, write_json
from resight.networks import build_model

LAYERS = {
    "swift": ("whiten", "block1", "block2", "block3"),
    "resnet9": ("prep", "layer1", "layer2", "layer3"),
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
}
IMAGE_PX, CLASSES = 32, 10
Maps = list[Tensor]  # of each layer, (N, M, H, W) in [0, 1]


def shown(maps: Tensor) -> Tensor:
    """Signed maps (N, M, h, w) as resight shows them: one scale for an image, enlarged."""
    maps = maps.detach().relu()
    maps = maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    return F.interpolate(maps, (IMAGE_PX, IMAGE_PX), mode="bilinear", align_corners=False)


def resight_side(
    model: nn.Module, images: Tensor, layers: Sequence[str], classes: Sequence[Tensor]
) -> Maps:
    """One call, whatever is asked for."""
    found = resight.heatmaps(model, images, layers, classes)
    return [found.upsampled(layer) for layer in layers]


def torchcam_side(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    classes: Sequence[Tensor],
    *,
    one_pass: bool,
) -> Maps:
    """A forward pass for each class, or one whose graph is kept."""
    with GradCAM(model, list(layers)) as extractor:
        logits, maps = model(images), []
        for m, labels in enumerate(classes):
            if m and not one_pass:
                logits = model(images)
            maps.append(extractor(labels.tolist(), logits, normalized=False, retain_graph=one_pass))
    return [shown(torch.stack(of_layer, dim=1)) for of_layer in zip(*maps, strict=True)]


def captum_side(
    model: nn.Module, images: Tensor, layers: Sequence[str], classes: Sequence[Tensor]
) -> Maps:
    """A forward and a backward pass for each layer and class."""
    found = []
    for layer in layers:
        method = LayerGradCam(model, model.get_submodule(layer))
        maps = [method.attribute(images, labels) for labels in classes]  # each (N, 1, h, w)
        found.append(shown(torch.cat(maps, dim=1)))
    return found


def timed(side: Callable[[], Maps]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    side()
    return 1000 * (time.perf_counter() - began)


def compare(
    model: nn.Module, images: Tensor, layers: Sequence[str], classes: Sequence[Tensor], rounds: int
) -> dict[str, object]:
    """All sides in turn; ratios are of the same round, above 1 where resight is faster."""
    last = images.contiguous(memory_format=torch.channels_last)
    work: dict[str, Callable[[], Maps]] = {
        "resight": lambda: resight_side(model, images, layers, classes),
        "torchcam": lambda: torchcam_side(model, images, layers, classes, one_pass=False),
        "captum": lambda: captum_side(model, images, layers, classes),
        "torchcam, channels_last": lambda: torchcam_side(
            model, last, layers, classes, one_pass=False
        ),
        "captum, channels_last": lambda: captum_side(model, last, layers, classes),
    }
    if len(classes) > 1:
        work["torchcam, one pass, channels_last"] = lambda: torchcam_side(
            model, last, layers, classes, one_pass=True
        )
    ours = work["resight"]()
    for name, side in work.items():
        # Maps in [0, 1], each divided by its largest value: where that is hardly above 0, rounding
        # shows in a few cells, but not in the mean.
        apart = max(float((a - b).abs().mean()) for a, b in zip(ours, side(), strict=True))
        if apart > 1e-4:
            sys.exit(f"{name} gives other maps than resight, by {apart:.1e} in the mean")
    figures = in_turn(
        {name: lambda side=side: timed(side) for name, side in work.items()},  # type: ignore[misc]
        rounds,
        lambda line: print(f"  {line} ms", file=sys.stderr),
    )
    ratios = {
        name: spread([a / b for a, b in zip(values, figures["resight"], strict=True)])
        for name, values in figures.items()
        if name != "resight"
    }
    return {"ms": {name: spread(values) for name, values in figures.items()}, "ratio": ratios}


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parsed(parser)
    torch.set_num_threads(arguments.threads)
    where = machine()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 3, IMAGE_PX, IMAGE_PX, generator=generator)
    labels = torch.randint(CLASSES, (arguments.batch,), generator=generator)
    every = [torch.full_like(labels, k) for k in range(CLASSES)]
    results: dict[str, dict[str, object]] = {}
    for name in arguments.networks:
        spec = resight.load_recipe(name).model
        model = build_model(spec, in_channels=3, num_classes=CLASSES, image_size=IMAGE_PX, seed=0)
        layers = LAYERS[name]
        work: dict[str, tuple[Sequence[str], list[Tensor]]] = {
            "last layer": (layers[-1:], [labels]),
            "last layer, all classes": (layers[-1:], every),
            "four layers, two classes": (layers, [labels, labels.roll(1)]),
        }
        model.eval()
        for case, (chosen, classes) in work.items():
            print(f"{name}, {case}", file=sys.stderr)
            result = compare(model, images, chosen, classes, arguments.rounds)
            results[f"{name}, {case}"] = result
    print(f"\n{'':42}{'median ratio':>14}{'min':>8}{'max':>8}", file=sys.stderr)
    for title, result in results.items():
        print(title, file=sys.stderr)
        for side, ratio in result["ratio"].items():  # type: ignore[attr-defined]
            row = f"{ratio['median']:14.2f}{ratio['min']:8.2f}{ratio['max']:8.2f}"
            print(f"  {side:40}{row}", file=sys.stderr)
    write_json({"machine": where, "batch": arguments.batch, "results": results})


if __name__ == "__main__":
    main()
