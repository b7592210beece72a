"""What a checkpoint in the middle of an epoch costs: the copy that the next step waits for.

    python bench/checkpoint.py                # states of resnet18 and swift-s after a step

A thread writes the copy during the next steps; how long that takes is shown beside it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import resight
from measure import machine, parsed, spread
from resight.events import ignore_events
from resight.runs.checkpoint import snapshot, write_checkpoint
from resight.training.loop import fit
from resight.training.setup import prepare


def main() -> None:
    """Print the size, and the milliseconds of copying and of writing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["resnet18", "swift-s"])
    parser.add_argument("--rounds", type=int, default=9)
    args = parsed(parser)
    print(machine())
    for name in args.recipes:
        recipe = resight.with_overrides(resight.load_recipe(name), ["training.batch_size=8"])
        setup = prepare(
            recipe, data="digits", model=None, device="cpu", offline=True, on_event=ignore_events
        )
        next(fit(setup.state, setup.recipe, setup.splits))  # now the optimizer has its state too
        copying, writing, size = [], [], 0
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(args.rounds):
                began = time.perf_counter()
                content = snapshot(setup)
                copied = time.perf_counter()
                write_checkpoint(Path(folder), content)
                copying.append(1000 * (copied - began))
                writing.append(1000 * (time.perf_counter() - copied))
                size = content.getbuffer().nbytes
        print(f"{name}: {size / 1e6:.1f} MB; copying {spread(copying)}; writing {spread(writing)}")


if __name__ == "__main__":
    main()
