"""airbench94 (Jordan 2024, arXiv 2404.00498) in a plain PyTorch loop, run to its end here.

    python bench/airbench94.py --data PATH_OR_NAME --seeds 1

Network, optimizer, schedule and augmentation are those of the paper, in bf16 on a CPU that has it,
channels_last; whitening and views are resight's functions. It says what the recipes are worth
beside the record they come from: accuracy with the paper's six views, and seconds of training,
without reading the data.
"""

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resight
from measure import machine, parsed, write_json
from resight.networks.swift import whitening_filters
from resight.training.precision import fastest_precision
from resight.training.predict import tta_logits

EPOCHS, BATCH = 9.9, 1024
LR, MOMENTUM, DECAY = 11.5, 0.85, 0.0153  # of 1,024 examples, decoupled from the momentum
BIAS_SCALE = 64.0
WHITEN_BIAS_EPOCHS = 3
SMOOTHING = 0.2
START, END, PEAK = 0.2, 0.07, 0.23  # of the rate, and where its peak is
LOOKAHEAD_STEPS = 5


class Bias(nn.BatchNorm2d):
    """Batch norm of which only the bias is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


def conv(channels: int, out: int) -> nn.Conv2d:
    """A 3x3 convolution that begins as the identity."""
    layer = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:channels])
    return layer


def group(channels: int, out: int) -> list[nn.Module]:
    """Two convolutions and a halving of the map."""
    first = [conv(channels, out), nn.MaxPool2d(2), Bias(out), nn.GELU()]
    return [*first, conv(out, out), Bias(out), nn.GELU()]


def network(images: Tensor) -> nn.Sequential:
    """The network of the paper; `images`: normalized, whose 2x2 patches are whitened."""
    whiten = nn.Conv2d(3, 24, 2)
    filters = whitening_filters(images).float()
    whiten.weight.data = torch.cat([filters, -filters])
    whiten.weight.requires_grad = False
    nn.init.zeros_(whiten.get_parameter("bias"))
    layers = [whiten, nn.GELU(), *group(24, 64), *group(64, 256), *group(256, 256)]
    layers += [nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10, bias=False)]
    model = nn.Sequential(*layers)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def shifted(images: Tensor, padded: Tensor) -> Tensor:
    """Images moved by up to two pixels, each by its own; `padded` by two on every side."""
    moves = torch.randint(5, (len(images), 2))
    out = torch.empty_like(images)
    for y in range(5):
        for x in range(5):
            rows = (moves == torch.tensor([y, x])).all(1)
            out[rows] = padded[rows, :, y : y + 32, x : x + 32]
    return out


def rate(step: int, total: int) -> float:
    """The share of the highest rate: a triangle."""
    share = step / total
    if share < PEAK:
        return START + (1 - START) * share / PEAK
    return 1 + (END - 1) * (share - PEAK) / (1 - PEAK)


@torch.no_grad()
def look_ahead(average: list[Tensor], model: nn.Module, decay: float) -> None:
    """Move the average towards the weights, which go back to it; at the end `decay` is 1."""
    for slow, fast in zip(average, model.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
            fast.copy_(slow)


def sgd(model: nn.Module) -> torch.optim.SGD:
    """The optimizer at its highest rates, for a loss that is a sum and not a mean."""
    scale = 1024 * (1 + 1 / (1 - MOMENTUM))
    lr, decay = LR / scale, DECAY * BATCH / scale
    biases = [m.bias for m in model.modules() if isinstance(m, Bias)]
    others = [p for p in model.parameters() if p.requires_grad and all(p is not b for b in biases)]
    groups: list[dict[str, Any]] = [
        {"params": biases, "lr": lr * BIAS_SCALE, "weight_decay": decay / lr / BIAS_SCALE},
        {"params": others, "lr": lr, "weight_decay": decay / lr},
    ]
    return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)


def train(data: resight.Dataset, seed: int, precision: torch.dtype) -> dict[str, float]:
    """Train and test once."""
    torch.manual_seed(seed)
    raw = data.train.images.float() / 255
    mean, std = (f(raw, dim=(0, 2, 3)).view(3, 1, 1) for f in (torch.mean, torch.std))
    pixels, labels = (raw - mean) / std, data.train.labels
    began = time.perf_counter()
    model = network(pixels[:5000])
    optimizer = sgd(model)
    first = [group["lr"] for group in optimizer.param_groups]
    steps, step = len(pixels) // BATCH, 0
    total = int(EPOCHS * steps)
    average = [tensor.clone() for tensor in model.state_dict().values()]
    mirrored = torch.rand(len(pixels)) < 0.5
    padded = F.pad(pixels, (2,) * 4, "reflect")
    while step < total:
        epoch, order = step // steps, torch.randperm(len(pixels))
        model.train()
        model[0].bias.requires_grad = epoch < WHITEN_BIAS_EPOCHS
        for rows in torch.split(order[: steps * BATCH], BATCH):
            x = shifted(pixels[rows], padded[rows])
            turn = mirrored[rows] ^ (epoch % 2 == 1)
            x = torch.where(turn[:, None, None, None], x.flip(-1), x)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = model(x.contiguous(memory_format=torch.channels_last)) / 9
            wanted = labels[rows]
            loss = F.cross_entropy(
                logits.float(), wanted, reduction="sum", label_smoothing=SMOOTHING
            )
            for group, top in zip(optimizer.param_groups, first, strict=True):
                group["lr"] = top * rate(step, total)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % LOOKAHEAD_STEPS == 0 or step == total:
                keep = 1.0 if step == total else 0.95**LOOKAHEAD_STEPS * (step / total) ** 3
                look_ahead(average, model, keep)
            if step == total:
                break
        print(f"epoch {epoch + 1}: loss {loss.item() / BATCH:.3f}", flush=True)
    secs = time.perf_counter() - began
    test = (data.test.images.float() / 255 - mean) / std
    right = test_accuracy(model, test, data.test.labels, precision)
    return {"seed": seed, "accuracy": right, "train_secs": secs}


@torch.no_grad()
def test_accuracy(
    model: nn.Module, images: Tensor, labels: Tensor, precision: torch.dtype
) -> float:
    """The share that is right by the mean of six views."""
    model.eval()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = [tta_logits(model, part, "flip_shift") for part in torch.split(images, 500)]
    return float((torch.cat(logits).argmax(1) == labels).float().mean())


def main() -> None:
    """Parse the arguments, train once for each seed, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parsed(parser)
    where, data = machine(), resight.data(arguments.data)
    precision = (
        torch.bfloat16 if fastest_precision(torch.device("cpu")) == "bf16" else torch.float32
    )
    runs = [train(data, seed, precision) for seed in range(arguments.seeds)]
    write_json({"machine": where, "precision": str(precision), "runs": runs})


if __name__ == "__main__":
    main()
