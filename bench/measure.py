"""What every benchmark shares: a quiet machine, sides in turn, medians, a table and JSON."""

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

MOST_LOAD = 0.15  # of a core: load average of the last minute above which nothing is published


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, `--busy` among them; without it a busy machine ends the bench with a line."""
    parser.add_argument(
        "--busy", action="store_true", help="measure on a busy machine all the same"
    )
    asked = parser.parse_args()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > MOST_LOAD and not asked.busy:
        sys.exit(
            f"the load average a core is {load:.2f}, above {MOST_LOAD}: a figure measured now "
            "would not be worth publishing; wait a minute, or pass --busy to look anyway"
        )
    return asked


def machine() -> dict[str, Any]:
    """What a figure was measured on, with the speed of a reference matrix product."""
    a = torch.rand(2048, 2048)
    secs = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        secs.append(time.perf_counter() - start)
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "matmul_gflops": round(2 * 2048**3 / statistics.median(secs) / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def in_turn(
    sides: Mapping[str, Callable[[], float]], rounds: int, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Figures of each side, the sides taken in turn, after one round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            figure = side()
            say(f"round {turn}/{rounds}  {name}: {figure:.1f}")
            if turn:
                figures[name].append(figure)
    return figures


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(figures: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Median and extremes of the quotients, each of one round."""
    return spread([a / b for a, b in zip(figures, others, strict=True)])


def optional(name: str) -> Any | None:
    """The module, or None and a line that says so: a peer that is not installed is left out."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision beside another torch
        print(f"without {name}: {error}".splitlines()[0], file=sys.stderr)
        return None


def write_json(content: Mapping[str, Any]) -> None:
    """On standard output, where progress does not go."""
    print(json.dumps(content, indent=2))
