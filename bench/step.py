"""images/s of a training step: resight against its convolutions alone and the loops people write.

    python bench/step.py --data PATH_OR_NAME        # CIFAR-10 in any layout; some 25 minutes

Every side takes the same number of images a measurement, in batches of the recipe's size:

- floor: the recipe's convolutions alone, forward and backward, in its micro-batches, layout and
  precision, as oneDNN computes them; where maps are small, a step can take less;
- resight: the recipe as it is: augmentation, micro-batches, loss, optimizer and history;
- plain: a loop as one writes it: PyTorch's default layout, no micro-batches, a `Dataset` that
  augments image by image with PIL, a `DataLoader` without workers, and with two;
- Lightning and skorch: the same without workers; loggers, checkpoints, progress bars off.

The loops of others are in float32 and have SGD, also where the recipe has bf16 and Muon.

The rate is 0.01 and the schedule stretched throughout: neither changes what a step costs.
Networks, optimizers and workers live from round to round, so none of them is paid for twice.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import resight
from augment import PerImage, WithPIL
from measure import in_turn, machine, optional, parsed, ratio, spread, write_json
from resight.datasets.augment import normalize
from resight.events import StepDone
from resight.recipe import Training
from resight.recipe.toml import with_changes
from resight.training.autotune import resolve_auto
from resight.training.loop import fit
from resight.training.network import init_model
from resight.training.precision import autocast, to_memory_format
from resight.training.setup import make_splits
from resight.training.state import TrainData, init_state

aten = torch.ops.aten
Side = Callable[[], float]  # images/s of one measurement


@dataclass(frozen=True)
class Case:
    """A recipe, its settings, and how much is measured at once: some 2 to 8 s on two cores."""

    recipe: str
    settings: tuple[str, ...]
    batches: int
    aim: float  # the whole step over the floor, at most


CASES = {
    "resnet9": Case("resnet9", (), batches=1, aim=1.05),
    "resnet18": Case("resnet18", (), batches=1, aim=1.05),
    "swift-32": Case("swift", ("model.widths=[32, 128, 128]",), batches=3, aim=1.12),
    "swift-64": Case("swift", ("model.widths=[64, 128, 128]",), batches=2, aim=1.08),
    "swift-64-256": Case("swift", ("model.widths=[64, 256, 256]",), batches=2, aim=1.08),
    # of one image size throughout; in bf16 where the processor has it
    "swift-s": Case("swift-s", ("training.progressive=none",), batches=3, aim=1.12),
    "swift-m": Case("swift-m", ("training.progressive=none",), batches=2, aim=1.08),
    "swift-l": Case("swift-l", ("training.progressive=none",), batches=1, aim=1.08),
}


@dataclass(frozen=True)
class Kernel:
    """One convolution as one micro-batch meets it."""

    conv: nn.Conv2d
    weight: Tensor  # this and the bias are its own, in the precision of the step
    bias: Tensor | None
    x: Tensor  # (n, C, H, W)
    grad: Tensor  # of the output
    wanted: tuple[bool, bool, bool]  # the gradients of input, weight and bias

    @torch.no_grad()
    def __call__(self) -> None:
        """Forward and backward; as in training, one call gives both gradients."""
        x, w, its = self.x, self.weight, self.conv
        geometry = (its.stride, its.padding, its.dilation, False, (0, 0), its.groups)
        aten.convolution(x, w, self.bias, *geometry)
        if any(self.wanted):
            aten.convolution_backward(self.grad, x, w, None, *geometry, self.wanted)


def conv_flop(work: Callable[[], object]) -> int:
    """FLOP of the convolutions that run, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if op in (aten.convolution, aten.convolution_backward))


def kernels(model: nn.Module, images: Tensor, training: Training) -> list[Kernel]:
    """The convolutions of one forward pass: inputs, layouts, gradients and precision they had."""
    found: list[Kernel] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        wanted = (args[0].requires_grad, module.weight.requires_grad, False)  # a bias is no kernel
        weight, x = (t.detach().to(output.dtype) for t in (module.weight, args[0]))
        bias = None if module.bias is None else module.bias.detach().to(output.dtype)
        found.append(Kernel(module, weight, bias, x, torch.randn_like(output), wanted))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]

    def step() -> None:
        with autocast(training, images.device):
            total = model.train()(images).sum()
        total.backward()

    whole = conv_flop(step)
    for hook in hooks:
        hook.remove()
    alone = sum(conv_flop(kernel) for kernel in found)
    # Of small maps a step computes matrix products, which are not counted; the floor never does.
    assert alone >= whole, f"the floor has {alone} FLOP of convolutions, a step {whole}"
    return found


def floor_side(found: list[Kernel], parts: int) -> float:
    """images/s if a step were nothing but its convolutions, `parts` micro-batches of them."""
    secs = 0.0
    for kernel in found:
        kernel()  # brings its tensors into the cache
        began = time.perf_counter()
        for _ in range(parts):
            kernel()
        secs += time.perf_counter() - began
    return parts * len(found[0].x) / secs


def our_side(recipe: resight.Recipe, data: TrainData) -> Side:
    """The training loop of resight; a measurement is an epoch without validation."""
    events = fit(init_state(recipe, data, init_model(recipe, data)), recipe, data)

    def epoch() -> float:
        began, images = time.perf_counter(), 0
        while isinstance(event := next(events), StepDone):
            images += event.images
        return images / (time.perf_counter() - began)

    return epoch


@dataclass(frozen=True)
class Written:
    """What people write before the loop, whichever loop it is."""

    model: nn.Module
    loader: Any  # a DataLoader
    optimizer: torch.optim.Optimizer
    criterion: nn.Module


def written(recipe: resight.Recipe, data: TrainData, workers: int = 0) -> Written:
    """The recipe's network, batch size, augmentation and loss; one group of weights, as usual."""
    model, size = init_model(recipe, data), recipe.training.batch_size
    decay = recipe.optimizer.weight_decay
    images = PerImage(data.train, WithPIL(recipe.augment, data.stats))
    return Written(
        model,
        DataLoader(images, size, shuffle=True, num_workers=workers, persistent_workers=workers > 0),
        torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=decay, nesterov=True),
        nn.CrossEntropyLoss(label_smoothing=recipe.loss.label_smoothing),
    )


def plain_side(its: Written) -> Side:
    """A loop as one would write it by hand."""

    device = next(its.model.parameters()).device

    def epoch() -> float:
        began = time.perf_counter()
        its.model.train()
        for images, labels in its.loader:
            its.optimizer.zero_grad()
            loss = its.criterion(its.model(images.to(device)), labels.to(device))
            loss.backward()
            its.optimizer.step()
        return len(its.loader.dataset) / (time.perf_counter() - began)

    return epoch


def lightning_side(its: Written) -> Side | None:
    """Lightning's Trainer: an epoch, without its setting up."""
    if (L := optional("lightning")) is None:
        return None
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # it would rather have workers
    base: Any = L.LightningModule

    class Training(base):  # type: ignore[misc]
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return its.optimizer

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            images, labels = batch
            loss: Tensor = its.criterion(self.model(images), labels)
            return loss

        def on_train_epoch_start(self) -> None:  # before the first image is asked for
            self.began = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.speed = len(its.loader.dataset) / (time.perf_counter() - self.began)

    training = Training()
    training.model = its.model
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    def epoch() -> float:
        trainer = L.Trainer(accelerator="cpu", max_epochs=1, **dict.fromkeys(off, False))
        trainer.fit(training, its.loader)
        return float(training.speed)

    return epoch


def skorch_side(its: Written) -> Side | None:
    """skorch, which makes a loader of its own of the same images."""
    if (skorch := optional("skorch")) is None:
        return None
    net = skorch.NeuralNetClassifier(
        its.model,
        criterion=its.criterion,
        optimizer=lambda *_, **__: its.optimizer,
        batch_size=its.loader.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks="disable",
    ).initialize()

    def epoch() -> float:
        began = time.perf_counter()
        net.partial_fit(its.loader.dataset, None, epochs=1)
        return len(its.loader.dataset) / (time.perf_counter() - began)

    return epoch


def sides_of(case: Case, data: resight.Dataset, rounds: int) -> dict[str, Side]:
    """The sides that are there, each with a network of its own."""
    recipe = resight.with_overrides(resight.load_recipe(case.recipe), list(case.settings))
    changes = {"optimizer": {"lr": 0.01}, "training": {"select": "last"}}
    recipe = with_changes(resight.with_epochs(recipe, rounds + 1), changes, origin="bench")
    size = recipe.training.batch_size
    splits = make_splits(recipe, data, torch.device("cpu"))
    rows = torch.randint(len(splits.train), (case.batches * size,))  # any will do
    splits = replace(splits, train=splits.train.select(rows), val=None)
    state = init_state(recipe, splits, init_model(recipe, splits))  # in the recipe's layout
    recipe, _ = resolve_auto(recipe, state, splits)
    parts = recipe.training.parts(size, "cpu")
    assert size % parts == 0  # every micro-batch is of one size
    images = normalize(splits.train.images[: size // parts], splits.stats)
    found = kernels(state.model, to_memory_format(images, recipe.training), recipe.training)
    sides: dict[str, Side | None] = {
        "floor": lambda: floor_side(found, case.batches * parts),
        "resight": our_side(recipe, splits),
        "plain": plain_side(written(recipe, splits)),
        "plain, 2 workers": plain_side(written(recipe, splits, workers=2)),
        "Lightning": lightning_side(written(recipe, splits)),
        "skorch": skorch_side(written(recipe, splits)),
    }
    return {name: side for name, side in sides.items() if side is not None}


def compare(name: str, case: Case, data: resight.Dataset, rounds: int) -> dict[str, Any]:
    """All sides in turn; ratios are of the same round."""
    sides = sides_of(case, data, rounds)
    figures = in_turn(sides, rounds, lambda line: print(f"{name}  {line}", file=sys.stderr))
    speeds = {side: spread(values) for side, values in figures.items()}
    floor, ours = figures.pop("floor"), figures.pop("resight")
    return {
        "images_per_sec": speeds,
        "step_over_floor": ratio(floor, ours),
        "aim": case.aim,
        "resight_over": {side: ratio(ours, peer) for side, peer in figures.items()},
    }


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: images/s of each side, and the ratio that is of interest."""
    lines = ["| network | side | images/s | ratio | min | max | of |", "|---" * 7 + "|"]
    for name, result in results.items():
        ratios = {"resight": result["step_over_floor"], **result["resight_over"]}
        for side, speed in result["images_per_sec"].items():
            cells = [f"{x:.3f}" for x in ratios.get(side, {}).values()] or [""] * 3
            of = f"step / floor, aim {result['aim']}" if side == "resight" else "resight / it"
            cells = [name, side, f"{speed['median']:.1f}", *cells, of if cells[0] else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--set", nargs="+", default=[], help="of all: training.precision=auto")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parsed(parser)
    where = machine()
    data = resight.data(arguments.data)
    results = {}
    for name in arguments.networks:
        case = CASES[name]
        case = replace(case, settings=(*case.settings, *arguments.set))
        results[name] = compare(name, case, data, arguments.rounds)
    print(f"\n{table(results)}", file=sys.stderr)
    write_json({"machine": where, "results": results})


if __name__ == "__main__":
    main()
