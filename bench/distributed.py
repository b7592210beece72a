"""Whether ranks that are killed end as if nothing had been: under torchrun, on one or two machines.

    python bench/distributed.py equal                 # one rank and several end with equal weights
    python bench/distributed.py kills --times 20      # a random rank at a random moment, each time
    python bench/distributed.py stops                 # SIGUSR1 at one rank, then the same command
    python bench/distributed.py machines              # two network namespaces; needs root on Linux

Every run is compared with one that nobody killed: weights, history without times, predictions. It
trains the bundled digits in two processes on the CPU, which meet over gloo; `bench/gpu.py --parts
ranks` does the first three parts on all GPUs of a machine, over NCCL. `machines` gives each of two
torchrun agents a network namespace of its own, joined by a pair of virtual devices; the agent of
the second is killed with its process, and started again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

SETTINGS = [
    "model.widths=[8,8,16]",
    "model.dropout=0.2",
    "explain={report=false,pictures=false}",
    "training.micro_batch=none",
    "training.ema_decay=0.9",
    "schedule.name=plateau",
    "schedule.epochs=12",
    "training.checkpoint_minutes=0.01",  # so that runs go on in the middle of an epoch too
]
PORT = 29_500
NAMES = ("resight0", "resight1")  # of the namespaces, and of the devices in them


def outcome(folder: Path) -> Any:
    """All that a run leaves behind, without the times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["train_secs"], row["images_per_sec"]
    weights = {name: w.tolist() for name, w in load_file(folder / "best.safetensors").items()}
    return rows, weights, (folder / "predictions.csv").read_text()


def start(
    folder: Path,
    options: list[str],
    prefix: Sequence[str] = (),
    *,
    device: str = "cpu",
    settings: Sequence[str] = SETTINGS,
) -> "subprocess.Popen[bytes]":
    """Start torchrun for the run in `folder`, which is created or gone on with."""
    train = ["-m", "resight", "train", "digits", "--device", device, "--resume", "--requeue"]
    train += ["--out", str(folder.parent), "--name", folder.name, "--quiet"]
    repeats = ["training.deterministic=true"] * (device != "cpu")
    train += [token for setting in (*settings, *repeats) for token in ("--set", setting)]
    command = [*prefix, sys.executable, "-m", "torch.distributed.run", *options, *train]
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


def ranks(folder: Path) -> dict[int, int]:
    """The processes that train the run in `folder`: rank -> number of the process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, StopIteration):
            if f"\0{folder.name}\0".encode() in (process / "cmdline").read_bytes():
                variables = (process / "environ").read_bytes().split(b"\0")
                rank = next(v for v in variables if v.startswith(b"RANK="))
                found[int(rank.removeprefix(b"RANK="))] = int(process.name)
    return found


def wait_for_epoch(number: int, folder: Path) -> None:
    """Wait until a run has finished as many epochs."""
    file = folder / "metrics.jsonl"
    while not file.exists() or file.read_text().count("\n") < number:
        time.sleep(0.01)


def equal(out: Path, count: int, device: str) -> dict[str, Any]:
    """Train on one rank and on `count`: by how much do the weights differ at the end?

    Without batch norm, and with the batch norm of all ranks; the last batch is uneven. The rates
    are low, as high ones enlarge what rounding leaves. Of weights above 1 the relative difference
    counts.
    """
    usual = ["explain={report=false,pictures=false}", "training.micro_batch=none"]
    usual += ["training.batch_size=99", "schedule.name=constant", "schedule.epochs=1"]
    usual += ["training.precision=float32"]
    usual += ["optimizer.lr=0.001", "optimizer.norm_bias_lr_scale=1"]
    networks = {
        "group norm": ["model={name='resnet9',norm='group',logit_scale=0.125}"],
        "synchronized batch norm": ["model.widths=[8,8,16]", "training.sync_batch_norm=true"],
    }
    result = {}
    for k, (name, network) in enumerate(networks.items()):
        weights = []
        for ranks_ in (1, count):
            folder = out / f"equal{k}-{ranks_}"
            options = ["--standalone", f"--nproc-per-node={ranks_}"]
            start(folder, options, device=device, settings=[*usual, *network]).wait()
            weights.append(load_file(folder / "best.safetensors"))
        one, several = weights
        gaps = [(one[key] - several[key]).abs() / one[key].abs().clamp(min=1) for key in one]
        result[name] = max(float(gap.max()) for gap in gaps)
    return result


def kills(out: Path, count: int, device: str, *, times: int, rng: random.Random) -> dict[str, Any]:
    """Kill a random rank at a random moment of each run, and compare how the runs end."""
    options = ["--standalone", f"--nproc-per-node={count}", "--max-restarts=3"]
    whole = out / "whole"
    start(whole, options, device=device).wait()
    exact, late = 0, 0
    for k in range(times):
        folder = out / f"run{k}"
        process = start(folder, options, device=device)
        wait_for_epoch(rng.randint(1, 10), folder)
        time.sleep(rng.uniform(0, 0.3))
        rank = rng.randrange(count)
        try:
            os.kill(ranks(folder)[rank], signal.SIGKILL)
        except (KeyError, ProcessLookupError):  # the run has ended
            late += 1
        code = process.wait()
        exact += code == 0 and outcome(folder) == outcome(whole)
        print(f"run {k}: rank {rank} killed, exit code {code}, {exact} exact", file=sys.stderr)
    return {"runs": times, "exact": exact, "killed_too_late": late}


def stops(out: Path, count: int, device: str) -> dict[str, Any]:
    """Send SIGUSR1 to the last rank; all stop after the same step, and the run goes on exactly."""
    options = ["--standalone", f"--nproc-per-node={count}"]
    start(out / "undisturbed", options, device=device).wait()
    folder = out / "stopped"
    process = start(folder, options, device=device)
    wait_for_epoch(3, folder)
    os.kill(ranks(folder)[count - 1], signal.SIGUSR1)
    codes = [process.wait(), start(folder, options, device=device).wait()]
    return {"exit_codes": codes, "exact": outcome(folder) == outcome(out / "undisturbed")}


def machines(out: Path) -> dict[str, Any]:
    """Train on two machines, kill the second, start it again, and compare how the run ends."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        sys.exit("two network namespaces need root and the command ip (package iproute2)")

    def configure(line: str) -> None:
        subprocess.run([ip, *line.split()], check=True)

    first, second = NAMES
    try:
        for k, name in enumerate(NAMES):
            configure(f"netns add {name}")
            if k == 0:
                configure(f"link add {first} type veth peer name {second}")
            configure(f"link set {name} netns {name}")
            configure(f"-n {name} addr add 10.99.0.{k + 1}/24 dev {name}")
            configure(f"-n {name} link set {name} up")
            configure(f"-n {name} link set lo up")

        def agent(folder: Path, name: str) -> "subprocess.Popen[bytes]":
            options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
            options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=10.99.0.1:{PORT}"]
            options += [f"--rdzv-id={folder.name}", f"--local-addr=10.99.0.{NAMES.index(name) + 1}"]
            options += [f"--rdzv-conf=is_host={int(name == first)}"]  # no name leads to the address
            # Without it torch 2.13 does not tell a machine that comes back where the others meet.
            variables = ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", f"GLOO_SOCKET_IFNAME={name}"]
            return start(folder, options, [ip, "netns", "exec", name, "env", *variables])

        whole, killed = out / "whole", out / "killed"
        for process in [agent(whole, name) for name in NAMES]:
            process.wait()
        stays, goes = agent(killed, first), agent(killed, second)
        wait_for_epoch(2, killed)
        began = time.perf_counter()
        os.kill(ranks(killed)[1], signal.SIGKILL)
        goes.kill()
        goes.wait()
        time.sleep(30)  # until its heartbeats are missed; no machine is back earlier
        back = agent(killed, second)
        codes = [stays.wait(), back.wait()]
        return {
            "exit_codes": codes,
            "exact": outcome(killed) == outcome(whole),
            "secs_from_kill_to_end": round(time.perf_counter() - began, 1),
        }
    finally:
        for name in NAMES:
            subprocess.run([ip, "netns", "del", name], check=False)


def main() -> None:
    """Parse the arguments, run one part, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["equal", "kills", "stops", "machines"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep runs and logs here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        place = (out, asked.ranks, asked.device)
        if asked.part == "kills":
            result = kills(*place, times=asked.times, rng=random.Random(asked.seed))
        elif asked.part == "machines":
            result = machines(out)
        else:
            result = {"equal": equal, "stops": stops}[asked.part](*place)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
