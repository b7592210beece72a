"""One `resight` command, with the time of its parts and its peak memory, for `bench/startup.py`.

    python bench/parts.py OUT.json train digits --out FOLDER

Each part has its seconds by the clock and those of the processor, of all threads. A part within a
part counts once, as the inner one. Nothing that takes time is imported here before the clock runs.
"""

import functools
import importlib
import importlib._bootstrap
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMPORTS, REST = "Python and imports", "rest"
# What a run is made of, in its order; "module:name" or "module:class.name", where it is called.
PARTS: dict[str, tuple[str, ...]] = {
    IMPORTS: (),
    "data": ("resight.training.setup:load_dataset", "resight.training.setup:make_splits"),
    "network": (
        "resight.training.setup:init_model",  # with a probe: its features and its head
        "resight.training.setup:init_state",
        "resight.training.setup:resolve_auto",
    ),
    "checks": ("resight.experiment:tell_issues",),
    "training": ("resight.experiment:_train_to_the_end",),
    "calibration": ("resight.experiment:load_model", "resight.experiment:calibrate"),
    "test predictions": ("resight.experiment:predict_images",),
    "tables": (
        "resight.runs.run:Run.write_predictions",
        "resight.runs.results:write_trained_images",
        "resight.runs.results:summarize_run",
        "resight.interpret.explain_run:write_csv",
    ),
    "figures": (
        "resight.runs.results:display_images",
        "resight.interpret.explain_run:display_images",
    ),
    "features": ("resight.interpret.steps:run_features",),
    "causes": ("resight.interpret.explain_run:find_causes",),
    "neighbors": ("resight.interpret.explain_run:_neighbors_of_mistakes",),
    "heat maps": ("resight.interpret.explain_run:draw_and_keep_maps",),
    "gallery": ("resight.interpret.run_maps:write_gallery",),
    "page": ("resight.html_report:write_page",),
    REST: (),
}  # fmt: skip
BEGAN = "RESIGHT_BENCH_BEGAN"  # of the environment: when the process was started


class Clock:
    """Seconds of the clock and of the processor, each charged to the innermost part."""

    def __init__(self) -> None:
        self.secs: dict[str, list[float]] = {part: [0.0, 0.0] for part in PARTS}
        self.stack = [IMPORTS]
        self.last = float(os.environ.get(BEGAN, time.time())), 0.0
        self.thread = threading.get_ident()

    def charge(self) -> None:
        """Charge the time since the last call to the part that runs."""
        now = time.time(), time.process_time()
        for k in range(2):
            self.secs[self.stack[-1]][k] += now[k] - self.last[k]
        self.last = now

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return a function whose time is charged to a part, in the thread of this clock."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self.thread:
                return function(*args, **kwargs)
            self.charge()
            self.stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.stack.pop()

        return wrapper

    def watch(self) -> None:
        """Time all parts of a run, and every import."""
        bootstrap: Any = importlib._bootstrap
        bootstrap._find_and_load = self.timed(bootstrap._find_and_load, IMPORTS)
        for part, targets in PARTS.items():
            for target in targets:
                module, _, path = target.partition(":")
                owner: Any = importlib.import_module(module)
                *outer, name = path.split(".")
                for attribute in outer:
                    owner = getattr(owner, attribute)
                setattr(owner, name, self.timed(getattr(owner, name), part))
        figures = importlib.import_module("resight.figures")
        for name in figures.__all__:
            if not isinstance(value := getattr(figures, name), type):
                setattr(figures, name, self.timed(value, "figures"))
        self.charge()
        self.stack = [REST]


def peak_bytes() -> int | None:
    """Return the peak memory of this process, where Linux says it; `getrusage` has its parent's."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> int:
    """Run the command; write its parts as JSON."""
    out, *arguments = sys.argv[1:]
    clock = Clock()
    if arguments[0] == "train":
        clock.watch()
    from resight.cli.app import main as run

    code = run(arguments)
    clock.charge()
    parts = {part: {"secs": wall, "cpu": cpu} for part, (wall, cpu) in clock.secs.items()}
    Path(out).write_text(json.dumps({"parts": parts, "peak": peak_bytes()}), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
