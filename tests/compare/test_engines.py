"""The same comparison on a Slurm cluster and on Ray, with time that is up, nodes that die and clusters that are not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.cli import main
from l0rnn.compare import Plan, run_all, task_plan
from l0rnn.compare.engines import Job, LocalEngine
from l0rnn.compare.engines.engine import PAUSED
from l0rnn.compare.engines.ray import RayEngine
from l0rnn.compare.engines.slurm import SlurmEngine, SlurmRun
from l0rnn.compare.process import write_order
from l0rnn.compare.results import run_folder
from tests.compare.slurm_cluster import slurm_cluster, why_not

ROOT = Path(__file__).parents[2]
TONES = Path(__file__).with_name("slow_tones.py")
RUNS = ["dense", "l0_gates, 40 %"]
STEPS = 32

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs the package submitit: pip install 'l0rnn[slurm]'"
)
needs_slurm = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the package ray: pip install 'l0rnn[ray]'"
)


def plan() -> Plan:
    return task_plan(TONES, methods=["l0_gates"], densities=[0.4], seeds=[1])


@pytest.fixture(autouse=True)
def slow_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Each step writes a line, and takes a tenth of a second."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("STEPS_OF_TONES", str(tmp_path / "steps"))
    return tmp_path / "steps"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What the runs end with on this machine, undisturbed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        return run_all(plan(), tmp_path_factory.mktemp("alone"), only=RUNS, engine=LocalEngine(2), threads=1)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    return torch.load(result["model"], weights_only=True)


def check_same(found: dict[Any, Any], wanted: dict[Any, Any]) -> None:
    for key, result in found.items():
        assert "error" not in result, result
        assert result["figures"] == wanted[key]["figures"]
        for name, weight in weights(wanted[key]).items():
            assert torch.equal(weight, weights(result)[name])


def steps_done(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def wait_for(ready: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def job(folder: Path) -> Job:
    """The dense run, ready to be started."""
    whole, run = plan(), plan().runs[0]
    path = run_folder(whole, run, {}, folder)
    write_order(path, whole.trainer, whole.config(run, {}), quality="valid", final="test", key=whole.key(run, {}))
    return Job(run.title, path, threads=1)


# ---------------------------------------------------------------------------------------------------------------------
# Slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")):
        yield


@needs_slurm
@needs_submitit
@pytest.mark.slow
def test_on_slurm_runs_end_as_they_do_alone(
    cluster: None, tmp_path: Path, alone: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_OF_TONES", "0")
    arguments = [str(TONES), "--out", str(tmp_path), "--methods", "l0_gates", "--densities", "0.4", "--seeds", "1"]
    options = ["--engine", "slurm", "--partition", "tests", "--time-limit", "10", "--sbatch", "comment=a=b"]
    assert main(["compare", *arguments, "--only", *RUNS, *options]) == 0
    check_same(run_all(plan(), tmp_path, only=RUNS, threads=1), alone)  # nothing is trained here any more
    assert "#SBATCH --comment=a=b" in next((tmp_path / "slurm").glob("*_submission.sh")).read_text()


@needs_slurm
@needs_submitit
@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_back_into_the_queue_with_a_checkpoint(
    cluster: None, tmp_path: Path, slow_steps: Path, alone: dict[Any, Any]
) -> None:
    engine = SlurmEngine(tmp_path, time_limit=10)
    handle = engine.start(job(tmp_path))
    wait_for(lambda: len(steps_done(slow_steps)) >= 3)
    # what Slurm sends 90 seconds before the limit
    subprocess.run(["scancel", "--signal=USR2", handle.submitted.job_id], check=True)
    wait_for(lambda: (handle.job.folder / "checkpoint.pt").exists())
    wait_for(lambda: engine.poll(handle) is not None, seconds=400)
    assert engine.poll(handle) == 0
    shown = subprocess.run(["scontrol", "show", "job", handle.submitted.job_id], capture_output=True, text=True)
    assert "Restarts=1" in shown.stdout
    pids = steps_done(slow_steps)
    assert len(pids) == STEPS  # none is trained twice
    assert len(set(pids)) == 2
    check_same({("dense", 1): json.loads((handle.job.folder / "result.json").read_text())}, alone)


@needs_slurm
@needs_submitit
@pytest.mark.slow
def test_jobs_are_stopped_and_go_on_elsewhere(
    cluster: None, tmp_path: Path, slow_steps: Path, alone: dict[Any, Any]
) -> None:
    engine = SlurmEngine(tmp_path)
    running = engine.start(job(tmp_path))
    wait_for(lambda: len(steps_done(slow_steps)) >= 3)
    engine.stop([running])
    assert engine.poll(running) == PAUSED
    assert len(steps_done(slow_steps)) < STEPS
    check_same(run_all(plan(), tmp_path, only=["dense"], threads=1), alone)


@needs_submitit
def test_a_run_that_cannot_write_its_checkpoint_in_time_is_not_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l0rnn.compare.engines.slurm.GRACE", 0.5)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    run = SlurmRun(Job("deaf", tmp_path, threads=1), time_limit=3)
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"deaf\n"
        run.watch(process)
        assert run.checkpoint() is None
    assert "the time limit of 3 min is too short" in (tmp_path / "log.txt").read_text()


@needs_submitit
def test_what_slurm_cannot_do_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`time_limit` must leave time to train.* at least 3 minutes, got 1"):
        SlurmEngine(tmp_path, time_limit=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no Slurm here: the command `sbatch` is not found"):
        SlurmEngine(tmp_path)
    for name, text in {"sbatch": "exit 0", "sinfo": "echo refused >&2; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(RuntimeError, match="controller does not answer; `sinfo` says: refused"):
        SlurmEngine(tmp_path)
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho short; echo long\n")
    with pytest.raises(RuntimeError, match="`partition` must be one of the cluster's, long, short, got 'gpu'"):
        SlurmEngine(tmp_path, partition="gpu")


# ---------------------------------------------------------------------------------------------------------------------
# Ray


@pytest.fixture
def ray_cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20}, shutdown_at_exit=False
    )
    yield cluster
    cluster.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_whose_node_dies_goes_on_at_another_one(
    ray_cluster: Any, tmp_path: Path, slow_steps: Path, alone: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_OF_TONES", "0.4")
    first = add_node(ray_cluster)
    engine = RayEngine(ray_cluster.address)
    try:
        assert engine.jobs == 1
        handle = engine.start(job(tmp_path))
        wait_for(lambda: len(steps_done(slow_steps)) >= 12)  # the second epoch: there is a checkpoint of the first
        add_node(ray_cluster)
        ray_cluster.remove_node(first, allow_graceful=False)
        wait_for(lambda: engine.poll(handle) is not None, seconds=240)
        assert engine.poll(handle) == 0, handle.job.log.read_text()
    finally:
        engine.close()
    pids = steps_done(slow_steps)
    assert len(set(pids)) == 2
    assert len(pids) < 2 * STEPS - 8  # it did not begin again
    check_same({("dense", 1): json.loads((handle.job.folder / "result.json").read_text())}, alone)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_ray_runs_are_stopped_and_end_as_they_do_alone(
    tmp_path: Path, slow_steps: Path, alone: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RayEngine(jobs=2)
    try:
        handle = engine.start(job(tmp_path))
        wait_for(lambda: len(steps_done(slow_steps)) >= 3)
        engine.stop([handle])
        assert engine.poll(handle) == PAUSED
        assert len(steps_done(slow_steps)) < STEPS
        check_same(run_all(plan(), tmp_path, only=RUNS, engine=engine, threads=1), alone)
    finally:
        engine.close()


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no Ray cluster at 127.0.0.1:1 .*start its head by `ray start --head"):
        RayEngine("127.0.0.1:1")
    with pytest.raises(ValueError, match="`address` must be HOST:PORT or auto, got 'nowhere'"):
        RayEngine("nowhere")


# ---------------------------------------------------------------------------------------------------------------------
# the command


@pytest.mark.parametrize(
    ("package", "engine", "extra"), [("submitit", "slurm", "slurm"), ("ray", "ray", "ray")], ids=["slurm", "ray"]
)
def test_without_its_package_an_engine_names_the_extra(
    package: str,
    engine: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["compare", str(TONES), "--out", str(tmp_path), "--engine", engine]) == 2
    said = capsys.readouterr().err
    assert f"the package {package!r} is not installed; install it with: pip install 'l0rnn[{extra}]'" in said


def test_options_of_another_engine_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(TONES), "--out", str(tmp_path)]
    assert main([*command, "--partition", "gpu"]) == 2
    assert "--partition is for --engine slurm, got local" in capsys.readouterr().err
    assert main([*command, "--engine", "slurm", "--address", "auto"]) == 2
    assert "--address is for --engine ray, got slurm" in capsys.readouterr().err
