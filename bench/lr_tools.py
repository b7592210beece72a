"""What learning-rate finders answer on the same curves: six made up, four of real networks.

    python bench/lr_tools.py                              # the made-up curves
    python bench/lr_tools.py --data PATH_OR_NAME          # and CIFAR-10 (some minutes a network)

The made-up curves are given to every tool as they are, 100 rates from 1e-7 to 10. On a network
the others get the loss of each step's own batch at these 100 rates, as they would record it, and
ours is `resight lr-find`; both with the augmentation and loss of the recipe and batches of 128.
torch-lr-finder is the package itself; fastai and Lightning follow their sources: an average with
decay 0.98, corrected for its start, stop at 4 times the best, then `valley` (without the first 10
and the last 5 points) and the steepest slope over the rate (without the first 10 and the last).
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import resight
from measure import write_json
from resight.lr_finder.find import LRRangeOptions, run_range_test
from resight.lr_finder.range_test import lr_values
from resight.lr_finder.rules import valley
from resight.lr_finder.suggest import LRCurve, analyze
from resight.records import FloatArray
from resight.training.setup import prepare

LRS = lr_values(1e-7, 10, 100, "exponential")
CHANCE = math.log(10)
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "resnet9": ("resnet9", []),
    "resnet18": ("resnet18", []),
    "swift": ("swift", []),
    "resnet18, LayerNorm": ("resnet18", ["model.norm=layer"]),
}


# --- the other tools ------------------------------------------------------------------------


def torch_lr_finder(lrs: FloatArray, losses: FloatArray) -> float | None:
    """The package's own suggestion, after its smoothing (0.05) and its stop (5 times the best)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a notebook when it is imported
        from torch_lr_finder import LRFinder
    smoothed: list[float] = []
    for loss in losses.tolist():
        smoothed.append(loss if not smoothed else 0.05 * loss + 0.95 * smoothed[-1])
        if smoothed[-1] > 5 * min(smoothed):
            break
    finder = LRFinder.__new__(LRFinder)
    finder.history = {"lr": lrs[: len(smoothed)].tolist(), "loss": smoothed}
    try:
        with redirect_stdout(sys.stderr):  # it prints; standard output is for JSON
            return float(finder.plot(suggest_lr=True, ax=Figure().subplots())[1])
    except RuntimeError:  # too few points
        return None


def corrected_average(losses: FloatArray) -> FloatArray:
    """Decay 0.98, corrected for its start, up to where it is 4 times its best."""
    smoothed, average = [], 0.0
    for i, loss in enumerate(losses.tolist(), 1):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98**i))
        if smoothed[-1] > 4 * min(smoothed):
            break
    return np.array(smoothed)


def fastai(lrs: FloatArray, losses: FloatArray) -> float | None:
    """Its default rule, `valley`; a NaN ends the curve."""
    smoothed = corrected_average(losses)
    bad = np.flatnonzero(~np.isfinite(smoothed))
    end = min([len(smoothed) - 5, *bad.tolist()])
    x, y = lrs[10:end], smoothed[10:end]
    return valley(x, y) if len(y) > 1 else None


def lightning(lrs: FloatArray, losses: FloatArray) -> float | None:
    """The steepest slope over the rate itself, of the losses that are finite."""
    y = corrected_average(losses)[10:-1]
    x = lrs[10 : 10 + len(y)][np.isfinite(y)]
    y = y[np.isfinite(y)]
    return float(x[np.gradient(y, x).argmin()]) if len(y) > 2 else None


TOOLS: dict[str, Callable[[FloatArray, FloatArray], float | None]] = {
    "torch-lr-finder": torch_lr_finder,
    "fastai": fastai,
    "Lightning": lightning,
}


# --- the curves -----------------------------------------------------------------------------


def made_up() -> dict[str, FloatArray]:
    """Losses (100,) at LRS; the clean one falls fastest at 0.02 and climbs from 0.3."""
    x = np.log10(LRS)
    clean = 2.3 - 0.9 / (1 + np.exp(-4 * (x - math.log10(0.02))))
    clean += np.where(LRS > 0.3, 1.5 * (x - math.log10(0.3)) ** 2, 0)
    noise = np.random.default_rng(0).normal(0, 1, len(x))
    spike = clean.copy()
    spike[12:15] += (3.0, 1.5, 0.5)
    broken = clean.copy()
    broken[-14:] = math.nan
    return {
        "clean": clean,
        "noisy": clean + 0.12 * noise,
        "early spike": spike,
        "flat": CHANCE + 0.01 * noise,
        "diverging at once": CHANCE * np.exp(0.06 * np.arange(len(x))),
        "NaN": broken,
    }


def of_network(preset: str, settings: list[str], data: str) -> tuple[LRCurve, LRCurve]:
    """(the curve as the others record it, ours), on a recipe's network."""
    settings = ["training.precision=float32", *settings]  # as the others compute
    recipe = resight.with_overrides(resight.load_recipe(preset), settings)
    setup = prepare(
        recipe, data=data, model=None, device="auto", offline=False, on_event=lambda event: None
    )
    plain = LRRangeOptions(
        start=LRS[0], end=LRS[-1], steps=len(LRS), set_aside=False, stop_at=math.inf
    )  # the tools stop it themselves
    return run_range_test(setup, plain, lambda event: None), run_range_test(
        setup, LRRangeOptions(), lambda event: None
    )


# --- the table ------------------------------------------------------------------------------


def row(name: str, lrs: FloatArray, losses: FloatArray, ours: LRCurve) -> dict[str, Any]:
    """What every tool says of one curve."""
    picks = {tool: answer(lrs, losses) for tool, answer in TOOLS.items()}
    print(f"{name}: {picks}, ours {ours.peak}, {ours.verdict}", file=sys.stderr)
    return {
        "curve": name,
        **picks,
        "steepest": ours.suggestions["steepest"],
        "valley": ours.suggestions["valley"],
        "peak": ours.peak,
        "constant": ours.constant,
        "images": ours.images or None,
        "trusted": ours.verdict.ok,
        "reasons": list(ours.verdict.reasons),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/lr-find.md."""

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:.2g}"

    lines = [
        f"| curve | {' | '.join(TOOLS)} | ours: peak | constant | verdict |",
        "|" + " --- |" * (len(TOOLS) + 4),
    ]
    for r in rows:
        verdict = "trusted" if r["trusted"] else "no: " + "; ".join(r["reasons"])
        cells = [rate(r[name]) for name in (*TOOLS, "peak", "constant")]
        lines.append(f"| {r['curve']} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CIFAR-10, a name or a path; none: only made-up curves")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    asked = parser.parse_args()
    rows = []
    for name, losses in made_up().items():
        ours = analyze(LRS, losses, images=0, chance=CHANCE)
        rows.append(row(name, LRS, losses, ours))
    for name in asked.networks if asked.data else ():
        theirs, ours = of_network(*NETWORKS[name], asked.data)
        rows.append(row(name, theirs.lrs, theirs.losses, ours))
    print(as_markdown(rows), file=sys.stderr)
    write_json({"torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
