"""How long until something happens: importing, --help, and the first augmented batch.

    python bench/startup.py                   # the bundled digits; --data PATH_OR_NAME for others

Each figure is of a fresh Python process, the sides in turn: `import torch` and `import resight`
against each other, `resight --help`, and, in a process that has done `import resight`, the time
to the first augmented training batch. That includes importing torch, reading the data from the
cache (which the round that does not count has filled), splitting it and its statistics.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

import resight
from measure import in_turn, machine, parsed, spread, write_json

FIRST_BATCH = """
import sys, time
import resight
began = time.perf_counter()
import torch
from resight.batches import train_batches
from resight.preparation import split_and_measure
recipe, data = resight.load_recipe(sys.argv[1]), resight.data(sys.argv[2])
splits = split_and_measure(recipe, data, torch.device("cpu"))
batch_size = recipe.training.batch_size
images, _ = next(
    train_batches(
        splits.train, recipe.augment, splits.stats, batch_size=batch_size, seed=0, epoch=0
    )
)
secs = time.perf_counter() - began
assert images.dtype == torch.float32 and len(images) == batch_size
print(1000 * secs)
"""


def process(*arguments: str) -> str:
    """What a fresh Python process writes."""
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def timed(*arguments: str) -> float:
    """Milliseconds of a fresh Python process from start to end."""
    began = time.perf_counter()
    process(*arguments)
    return 1000 * (time.perf_counter() - began)


def measure(recipe: str, data: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of each side, and `import resight` over `import torch` of the same round."""
    figures = in_turn(
        {
            "nothing": lambda: timed("-c", "pass"),
            "import torch": lambda: timed("-c", "import torch"),
            "import resight": lambda: timed("-c", "import resight"),
            "resight --help": lambda: timed("-m", "resight", "--help"),
            "first batch": lambda: float(process("-c", FIRST_BATCH, recipe, data)),
        },
        rounds,
        lambda line: print(f"  {line} ms", file=sys.stderr),
    )
    pairs = zip(figures["import resight"], figures["import torch"], strict=True)
    return {
        "recipe": recipe,
        "ms": {name: spread(values) for name, values in figures.items()},
        "import_resight_over_torch": spread([a / b for a, b in pairs]),
    }


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--recipe", help="digits for the digits, swift for anything else")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parsed(parser)
    where = machine()
    recipe = arguments.recipe or ("digits" if arguments.data == "digits" else "swift")
    resight.load_recipe(recipe)  # a wrong name is told here, not by the process
    result = measure(recipe, arguments.data, arguments.rounds)
    print("\n| ms | median | min | max |\n|---|---:|---:|---:|", file=sys.stderr)
    for name, ms in result["ms"].items():
        row = " | ".join(f"{ms[key]:.0f}" for key in ("median", "min", "max"))
        print(f"| {name} | {row} |", file=sys.stderr)
    ratio = " | ".join(
        f"{result['import_resight_over_torch'][key]:.3f}" for key in ("median", "min", "max")
    )
    print(f"| import resight / import torch | {ratio} |", file=sys.stderr)
    write_json({"machine": where, "data": arguments.data, "results": result})


if __name__ == "__main__":
    main()
