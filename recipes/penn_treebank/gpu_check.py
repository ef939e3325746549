"""How fast a training step is on this machine, and how many trainings fit side by side.

    python -m recipes.penn_treebank.gpu_check --device cuda --out out/gpu_check.json

Steps per second of the whole training step (forward, backward, clipping, optimiser) of the dense and of the gated
network, in float32, in TF32, in TF32 as a captured CUDA graph (`CapturedSteps`), and under bfloat16 autocast. cuDNN
wants the weights of a recurrent layer in one block of memory, and warns when it has to pack them again at each call;
those warnings are counted. Memory is the peak of torch's allocator over the steps; a process of its own needs about
0.5 GB more for CUDA itself.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from l0rnn import Budget, Dense, L0Gates
from l0rnn.bench.report import environment
from l0rnn.models import L0GatedLSTM
from recipes.penn_treebank.captured_steps import CapturedSteps

Precision = Literal["float32", "tf32", "tf32, captured", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "tf32, captured", "bf16")
CONTEXT = 0.5e9  # bytes of a CUDA context
CLIP = 0.286


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1500, 650])
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--steps", type=int, default=35, help="time steps of a segment")
    parser.add_argument("--repeats", type=int, default=50, help="training steps that are timed")
    parser.add_argument("--warm-up", type=int, default=10, help="training steps before those")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    options = parser.parse_args(arguments)
    rows = []
    print("| hidden | network | precision | steps/s | re-packing warnings | memory, GB | fit |")
    print("|---" * 7 + "|")
    for hidden in options.hidden:
        for network in ("dense", "gated"):
            for precision in PRECISIONS:
                size = {"batch": options.batch, "steps": options.steps, "vocabulary": options.vocabulary}
                times = {"repeats": options.repeats, "warm_up": options.warm_up}
                row = measure(hidden, network == "gated", precision, device=options.device, **size, **times)
                rows.append(row)
                print(
                    f"| {hidden} | {network} | {precision} | {_or_blank(row['steps_per_second'], 1) or 'cannot run'} | "
                    f"{row['repacking_warnings']} | {_or_blank(row['bytes'], 1e-9)} | {row['fit'] or ''} |",
                    flush=True,
                )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"rows": rows, "environment": environment(options.device)}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(
    hidden: int,
    is_gated: bool,
    precision: Precision,
    *,
    device: str,
    batch: int,
    steps: int,
    vocabulary: int,
    repeats: int,
    warm_up: int,
) -> dict[str, Any]:
    """One row: the training step of one network in one precision.

    Returns:
        ``steps_per_second``, or None and the ``error``; ``repacking_warnings`` of all steps; ``bytes`` at the peak and
        how many such trainings ``fit`` on the device, both None on the CPU.
    """
    is_cuda = torch.device(device).type == "cuda"
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision.startswith("tf32")
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        steps_in_all = warm_up + repeats if precision == "tf32, captured" else 0
        step = _training_step(hidden, is_gated, precision, torch.device(device), batch, steps, vocabulary, steps_in_all)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(warm_up):
                step()
            seconds, error = _timed(step, repeats, is_cuda), None
    except RuntimeError as reason:  # a precision without kernels here, or memory that does not suffice
        seconds, error, caught = None, str(reason).splitlines()[0], []
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    used = torch.cuda.max_memory_reserved(device) if is_cuda else None
    total = torch.cuda.get_device_properties(device).total_memory if is_cuda else None
    return {
        "hidden": hidden,
        "network": "gated" if is_gated else "dense",
        "precision": precision,
        "steps_per_second": None if seconds is None else repeats / seconds,
        "error": error,
        "repacking_warnings": sum("single contiguous chunk" in str(warning.message) for warning in caught),
        "bytes": used,
        "fit": None if used is None or total is None else int(total / (used + CONTEXT)),
    }


def _training_step(
    hidden: int,
    is_gated: bool,
    precision: Precision,
    device: torch.device,
    batch: int,
    steps: int,
    vocabulary: int,
    captured: int,
) -> Any:
    """A function that does one step; with ``captured`` > 0 at most so many times, by `CapturedSteps`."""
    torch.manual_seed(0)
    method = L0Gates(Budget(density=0.5), open_probability=0.93, noise=True, repair=False) if is_gated else Dense()
    model = L0GatedLSTM(vocabulary, hidden, dropout=0.5, method=method).to(device).train()
    optimizer = model.configure_optimizers()["optimizer"]
    method.begin(1_000_000)
    words = torch.randint(vocabulary, (max(1, captured) * steps + 1, batch), device=device)
    if captured:
        return partial(CapturedSteps(model, optimizer, words, steps, CLIP).run, 1)
    done = 0

    def step() -> None:
        nonlocal done
        cast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        optimizer.zero_grad()
        with cast:
            loss, _ = model.loss(model.network, (words[:-1], words[1:]), None)
            loss = loss + method.penalty()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        done += 1
        method.after_step(done)

    return step


def _timed(step: Any, repeats: int, is_cuda: bool) -> float:
    if is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _or_blank(number: float | None, scale: float) -> str:
    return "" if number is None else f"{number * scale:.2f}"


if __name__ == "__main__":
    main()
