"""The batch script of docs/cluster.md on real SLURM daemons: warned, preempted, requeued, finished.

    apt-get install slurm-wlm munge
    python bench/slurm.py                             # as root, on a machine without SLURM

It starts munged, slurmctld and slurmd with a configuration of its own, submits the script with
one node, two processes on the CPU and the bundled digits, sends SIGUSR1 to the job, preempts it by
a job of higher priority, and compares its end with a run that nobody disturbed.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distributed import SETTINGS, outcome, start, wait_for_epoch

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
PAGE = Path(__file__).parent.parent / "docs" / "cluster.md"
CONFIGURATION = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=120
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


def script(folder: Path) -> str:
    """The script of the page, for one node without GPUs and a short run."""
    text = re.search(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert text is not None
    train = "-m resight train digits --device cpu --quiet --out " + str(folder)
    train += "".join(f" --set '{setting}'" for setting in SETTINGS)
    changes = {
        "--nodes=2": "--nodes=1 --exclusive",
        " --gpus-per-node=4": "",
        "--nproc-per-node 4": "--nproc-per-node 2",
        "srun torchrun": f"srun {sys.executable} -m torch.distributed.run",
        "-m resight train resnet18 --data cifar10": train,
    }
    content = text.group(1)
    for old, new in changes.items():
        assert old in content, old
        content = content.replace(old, new)
    return content


def wait(what: str, done: Callable[[], bool], secs: float = 900) -> None:
    """Wait until something is so, and say what is waited for."""
    print(f"waiting: {what}", file=sys.stderr, flush=True)
    until = time.monotonic() + secs
    while not done():
        if time.monotonic() > until:
            sys.exit(f"not so after {secs:.0f} s: {what}")
        time.sleep(0.2)


def run(*command: str) -> str:
    """Run a command of SLURM; return what it prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def state(job: str) -> str:
    """The state of a job, such as RUNNING."""
    return run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


def disturb(out: Path) -> dict[str, object]:
    """Submit the script, disturb the job twice, and say how it ended."""
    (out / "job.sh").write_text(script(out))
    folder = out / "big"
    job = run("sbatch", "--parsable", f"--output={out}/job.log", str(out / "job.sh"))
    wait_for_epoch(2, folder)
    run("scancel", "--signal=USR1", job)
    wait("the job is requeued", lambda: state(job) != "RUNNING")
    stopped = (folder / "metrics.jsonl").read_text().count("\n")
    wait_for_epoch(stopped + 2, folder)
    urgent = run("sbatch", "--parsable", "--partition=high", "--exclusive", "--wrap=sleep 5")
    wait("the urgent job has taken its place", lambda: state(urgent) == "COMPLETED")
    preempted = (folder / "metrics.jsonl").read_text().count("\n")
    wait("the job is finished", lambda: state(job) not in ("PENDING", "RUNNING", "COMPLETING"))
    restarts = re.search(r"Restarts=(\d+)", run("scontrol", "show", "job", job))
    return {
        "epochs_when_warned": stopped,
        "epochs_when_preempted": preempted,
        "restarts": restarts and int(restarts.group(1)),
        "state": state(job),
    }


def main() -> None:
    """Start the daemons, disturb a job, print JSON, and stop the daemons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep runs and logs here")
    asked = parser.parse_args()
    if missing := [name for name in DAEMONS if shutil.which(name) is None]:
        sys.exit(f"skipped: {', '.join(missing)} not installed")
    with tempfile.TemporaryDirectory() as temporary:
        out = (asked.out or Path(temporary)).absolute()
        (out / "spool").mkdir(parents=True)
        (out / "state").mkdir()
        host = socket.gethostname().partition(".")[0]
        (out / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=out))
        os.environ |= {"SLURM_CONF": str(out / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        whole = start(out / "whole", ["--standalone", "--nproc-per-node=2"], [])
        (out / "munge.key").write_bytes(os.urandom(1024))
        (out / "munge.key").chmod(0o600)
        places = ("socket", "key", "pid", "log", "seed")
        munged = ["munged", "--foreground", "--force"]
        munged += [f"--{p if p == 'socket' else p + '-file'}={out}/munge.{p}" for p in places]
        started = []
        for command in (
            munged,
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            with (out / f"{command[0]}.out").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(2)
        try:
            wait("the node is up", lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), 60)
            result = disturb(out)
            whole.wait()
            result["exact"] = outcome(out / "big") == outcome(out / "whole")
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
