"""images/s of the training loop on several devices, over what it does on one.

    python bench/devices.py --data PATH_OR_NAME --recipe swift-gpu --devices 1 2 4 8
    python bench/devices.py --data PATH_OR_NAME --recipe swift-s --device cpu

The recipe's batch stays as large as it is and is shared; images keep their size. The clock runs
from the fourth step on, and reads the last loss, for which a GPU has to be done. Sides in turn. On
a CPU devices are processes that divide its cores.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import resight
from measure import in_turn, machine, parsed, ratio, spread, write_json
from resight.events import StepDone
from resight.training.device import check_devices
from resight.training.launcher import lead
from resight.training.loop import fit
from resight.training.setup import TrainSetup, prepare

FIRST = 3  # steps before the clock runs


def images_per_sec(setup: TrainSetup, count: int, images: int) -> float:
    """Of a loop that goes on from where the last one was: no result depends on the weights."""
    with (
        lead(setup, Path(), count, data=None, model=None) as rank,
        closing(fit(setup.state, setup.recipe, setup.splits, rank=rank)) as events,
    ):
        steps = (event for event in events if isinstance(event, StepDone))
        for step in itertools.islice(steps, FIRST):
            float(step.loss)
            rank.any(False)
        began, seen = time.perf_counter(), 0
        for step in steps:
            seen += step.images
            if rank.any(seen >= images):  # all ranks end here
                break
        float(step.loss)
        return seen / (time.perf_counter() - began)


def main() -> None:
    """Parse the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--recipe", default="swift-gpu")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=20_000, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parsed(parser)
    where = machine()
    recipe = resight.with_overrides(
        resight.load_recipe(asked.recipe),
        ["training.progressive=none", *asked.overrides],
    )
    # Long enough for all rounds: a schedule that ends would end the measurement.
    recipe = resight.with_epochs(recipe, 10_000)
    size = recipe.training.batch_size
    device, _ = check_devices(asked.device, max(asked.devices), batch_size=size)
    setup = prepare(
        recipe,
        data=asked.data,
        model=None,
        device=device,
        offline=False,
        on_event=lambda event: None,
    )
    sides: dict[str, Callable[[], float]] = {
        str(count): lambda count=count: images_per_sec(setup, count, asked.images)  # type: ignore[misc]
        for count in asked.devices
    }
    figures = in_turn(sides, asked.rounds, lambda line: print(line, file=sys.stderr))
    first = figures[str(asked.devices[0])]
    write_json(
        {
            "machine": where,
            "recipe": asked.recipe,
            "device": str(setup.splits.train.images.device),
            "batch_size": recipe.training.batch_size,
            "images_per_sec": {count: spread(values) for count, values in figures.items()},
            "ratio": {count: ratio(values, first) for count, values in figures.items()},
        }
    )


if __name__ == "__main__":
    main()
