"""A Slurm cluster of one node, which is this machine, for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
KillWait=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "srun": "slurm-wlm", "munged": "munge"}


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = sorted({package for program, package in PROGRAMS.items() if _where(program) is None})
    if missing:
        return f"needs the Debian packages {', '.join(missing)}"
    return None if os.getuid() == 0 else "slurmd has to be started by root"


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[None]:
    """Inside the block ``sbatch`` and the like find the cluster, by the variable SLURM_CONF."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    path = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    path.write_text(CONFIGURATION.format(folder=folder, host=host, ports=[_free_port(), _free_port()]))
    munge = ["--force", "--foreground", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    commands = [["munged", *munge], ["slurmctld", "-D", "-f", str(path)], ["slurmd", "-D", "-f", str(path)]]
    daemons: list[subprocess.Popen[bytes]] = []
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(path)
    try:
        for program, *arguments in commands:
            with (folder / f"{program}.out").open("wb") as said:
                daemons.append(subprocess.Popen([str(_where(program)), *arguments], stdout=said, stderr=said))
            time.sleep(1.0)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True, check=False).stdout:
            assert time.monotonic() < deadline, [file.read_text()[-500:] for file in folder.glob("*.out")]
            time.sleep(0.5)
        yield
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=60, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _where(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
