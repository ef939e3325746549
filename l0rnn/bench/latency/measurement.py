"""Measure the latency table of a network: its layers one by one, and some whole networks, at several widths."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint
from l0rnn.bench import benchmark
from l0rnn.bench.latency.grid import CallSize
from l0rnn.bench.latency.layers import LayerAlone, chain, kept_units, layout
from l0rnn.bench.latency.table import LatencyTable
from l0rnn.bench.report import environment
from l0rnn.blueprint import draw_blueprint
from l0rnn.surgery.build import build
from l0rnn.wiring import OUTSIDE, Wiring

log = logging.getLogger(__name__)

MakeInputs = Callable[[int, int], tuple[Any, ...]]
SHARES = (
    0.0,
    1 / 16,
    1 / 8,
    1 / 4,
    1 / 2,
    0.7,
    1.0,
)  # of the gated units, in the whole networks; 0 is one unit per axis


def measure_latency(
    network: nn.Module,
    wiring: Wiring,
    size: CallSize,
    *,
    gated: Collection[str] | None = None,
    make_inputs: MakeInputs | None = None,
    seconds: float = 0.08,
) -> LatencyTable:
    """Time fresh plain layers over a grid of widths, and the whole network at a few.

    Each runtime (oneDNN on and off on a CPU) has tables of its own, because a network runs in one of them. The layers
    of a stack differ by a unit in all but the largest and the smallest whole network, as they do after training, when
    each layer is a call of its own. The network, the random numbers and the thread count are as before afterwards.

    Args:
        network: modules of plain torch.
        wiring: what each layer of the network reads.
        size: the call to time.
        gated: axes whose widths will change; all that can be pruned if None.
        make_inputs: ``(batch, steps)`` → arguments of the network's forward. If None, random words or features of the
            right shape are tried; a network that does not run on them is timed as its layers called one after another,
            without the code around them. A Linear layer on its own is timed on every time step.
        seconds: time spent on each layer × width × runtime; three times as much on whole networks.

    Returns:
        The table. For a language model of 2 × 650 units, 53 networks, it takes about 20 seconds.

    Raises:
        ValueError: if ``size.device`` is not there, a layer is an LSTM with ``proj_size``, or the network does not run
            on ``make_inputs``.

    Example:
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
        >>> table = measure_latency(network, Wiring({"1": ["0"]}), CallSize(1, 5), seconds=0.001)
        >>> table.grids[0].reads, table({"0": 4, "1": 10}) > 0
        ((1, 2, 3, 4), True)
    """
    device = present_device(size.device)
    blueprint = draw_blueprint(network, wiring)
    gated = {axis.name for axis in blueprint.prunable()} if gated is None else set(gated)
    places, grids = layout(network, blueprint, gated)
    started = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        parts = {
            f"{index}: {reads}, {units}": LayerAlone(grid, reads, units, network, size)
            for index, grid in enumerate(grids)
            for reads in grid.reads
            for units in grid.units
        }
        times = milliseconds({name: part.to(device) for name, part in parts.items()}, lambda *_: (), size, seconds)
        layers = [
            {
                runtime: [
                    [times[f"{index}: {reads}, {units}"][runtime] for units in grid.units] for reads in grid.reads
                ]
                for runtime in next(iter(times.values()))
            }
            for index, grid in enumerate(grids)
        ]
        keeps = {f"{share:.4f}": kept_units(blueprint, gated, share) for share in SHARES}
        make_inputs = make_inputs or _inputs_that_run(network, wiring, blueprint, keeps[f"{SHARES[0]:.4f}"])
        if make_inputs is None:
            log.info("the layers are timed without the code around them: `make_inputs` would say how to call it")
            wholes = {name: chain(keep, places, grids, network, size) for name, keep in keeps.items()}
            make_inputs = _no_inputs
        else:
            wholes = {name: build(network, blueprint, {}, keep) for name, keep in keeps.items()}
        whole_times = milliseconds(
            {name: whole.to(device) for name, whole in wholes.items()}, make_inputs, size, 3 * seconds
        )
    table = LatencyTable.from_measurements(
        size,
        places,
        grids,
        layers=layers,
        wholes=[({axis: int(keep.sum()) for axis, keep in keeps[name].items()}, whole_times[name]) for name in keeps],
        environment=environment(device),
    )
    log.info("measured %d layers and networks in %.1f s", len(parts) + len(wholes), time.monotonic() - started)
    return table


def find_table(
    network: nn.Module, wiring: Wiring, size: CallSize, *, gated: Collection[str], given: Mapping[str, Any] | str | None
) -> LatencyTable:
    """The table that is given, or a new one.

    Args:
        network: modules of plain torch.
        wiring: what each layer of the network reads.
        size: the call to time.
        gated: axes whose widths will change.
        given: a table as plain data; the path of a JSON file, which is read if it is there, and else written; or None
            to measure. A table of another environment is used as it is, and the difference logged.

    Raises:
        ValueError: if the table is damaged, or of another network or call size, or the device is not there.
    """
    path = Path(given) if isinstance(given, str) else None
    if given is None or (path is not None and not path.exists()):
        table = measure_latency(network, wiring, size, gated=gated)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            table.save(path)
        return table
    table = LatencyTable.load(path) if path is not None else LatencyTable.from_plain(given)  # type: ignore[arg-type]
    table.check_fits(size, *layout(network, draw_blueprint(network, wiring), set(gated)))
    here = environment(size.device if is_present(size.device) else "cpu")
    if different := table.differences(here):
        log.warning(
            "the latency table was measured in another environment (%s); leave `table` out to measure here",
            "; ".join(different),
        )
    return table


def milliseconds(
    networks: Mapping[str, nn.Module], make_inputs: MakeInputs, size: CallSize, seconds: float
) -> dict[str, dict[str, float]]:
    """Network → runtime → median milliseconds per call, measured in interleaved rounds."""
    report = benchmark(
        networks,
        make_inputs,
        grid=[(size.batch, size.steps)],
        threads=[size.threads],
        device=size.device,
        seconds=seconds,
    )
    found: dict[str, dict[str, float]] = {name: {} for name in networks}
    for row in report.rows:
        found[row.network][row.runtime] = row.milliseconds
    return found


def present_device(device: str) -> torch.device:
    """A device by name.

    Raises:
        ValueError: if it is neither a CPU nor a GPU that torch finds.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"`device` must be 'cpu' or 'cuda', got {device!r}") from error
    if not is_present(device):
        raise ValueError(
            f"`device` must be one that torch finds here, got {device!r} with "
            f"{torch.cuda.device_count() if torch.cuda.is_available() else 0} CUDA GPUs; use 'cpu', or give the "
            "`table` measured on the machine that has it"
        )
    return found


def is_present(device: str) -> bool:
    """Whether torch finds a device here."""
    found = torch.device(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < count)


def _no_inputs(batch: int, steps: int) -> tuple[Any, ...]:
    return ()


def _inputs_that_run(
    network: nn.Module, wiring: Wiring, blueprint: Blueprint, keep: Mapping[str, Tensor]
) -> MakeInputs | None:
    """Random words or features for a network with one argument, if the smallest one runs on them."""
    modules: dict[str, Any] = dict(network.named_modules())
    words = [modules[layer] for layer in blueprint.outputs if isinstance(modules[layer], nn.Embedding)]
    outside = [layer for layer, sources in wiring.reads.items() if OUTSIDE in sources]
    arguments = inspect.signature(network.forward).parameters.values()
    required = [part for part in arguments if part.default is part.empty and part.kind is part.POSITIONAL_OR_KEYWORD]
    if len(words) + len(outside) != 1 or len(required) != 1:
        return None
    is_batch_first = any(getattr(module, "batch_first", False) for module in modules.values())
    dtype = next(network.parameters()).dtype

    def make_inputs(batch: int, steps: int) -> tuple[Any, ...]:
        shape = (batch, steps) if is_batch_first else (steps, batch)
        if words:
            return (torch.randint(words[0].num_embeddings, shape),)
        return (torch.randn(*shape, blueprint.axes[f"{OUTSIDE}→{outside[0]}"].size, dtype=dtype),)

    try:
        device = next(network.parameters()).device
        with torch.inference_mode():
            build(network, blueprint, {}, keep).eval()(*(part.to(device) for part in make_inputs(2, 3)))
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return None
    return make_inputs
