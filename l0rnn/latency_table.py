"""Milliseconds of a network as a differentiable function of its widths, interpolated between measurements.

Each recurrent layer and direction, and each Linear, has a table of measured milliseconds over the units it reads and
the units it produces; lookups are free. Their sum is led through a curve of whole networks that were measured too,
since layers of one call share caches, and a call has a cost of its own. Both are interpolated linearly in the
logarithms of widths and milliseconds: exact at what was measured, and close to a power law in between. The
measuring is done by `l0rnn.latency_measurement`; this module only computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l0rnn.foreign_text import printable
from l0rnn.latency_grid import CallSize, LayerGrid, LayerPlace

Number = Any  # int for exact counts, float or a differentiable Tensor for expected ones
MOST_BYTES = 32 * 2**20  # of a file; that of a large network has some 10,000
DECISIVE = ("cpu", "cores", "gpu", "torch", "onednn")  # what latency depends on in an environment


@dataclass(frozen=True)
class LatencyTable:
    """Measured milliseconds of the layers of one network, on one machine, for calls of one size.

    Attributes:
        size: the call that was timed.
        runtimes: as in `l0rnn.bench`, each with tables of its own; the fastest on the whole network counts.
        grids: kinds of layers and widths.
        places: the layers of the network; ``encoder.l0`` is the first layer of ``encoder``.
        milliseconds: for each grid `(runtime, reads, units)`, rising along each axis.
        whole: sums over the layers of some whole networks, and their milliseconds, `(runtime, 2, network)`.
        environment: versions and hardware of the measurement.

    Example:
        >>> grid = LayerGrid("Linear", True, reads=(1, 8), units=(10,))
        >>> table = LatencyTable.from_measurements(
        ...     CallSize(1, 35),
        ...     {"decoder": LayerPlace(0, ("hidden",), ("words",))},
        ...     (grid,),
        ...     layers=[{"native": [[0.1], [0.8]]}],
        ...     wholes=[({"hidden": 1, "words": 10}, {"native": 0.2}), ({"hidden": 8, "words": 10}, {"native": 1.6})],
        ... )
        >>> round(table({"hidden": 4, "words": 10}), 3)  # twice the sum, which is proportional to the units
        0.8
        >>> LatencyTable.from_plain(table.plain()).plain() == table.plain()
        True

    Reference:
        Yang et al. 2018 (arXiv 1804.03230) on budgets that are measured instead of counted, and Wu et al. 2018 (arXiv
        1812.03443) on tables of latency per layer in a differentiable search; both are of convolutional networks. The
        interpolation over widths, and the curve of whole networks, are this library's.
    """

    size: CallSize
    runtimes: tuple[str, ...]
    grids: tuple[LayerGrid, ...]
    places: dict[str, LayerPlace]
    milliseconds: tuple[Tensor, ...]
    whole: Tensor
    environment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_measurements(
        cls,
        size: CallSize,
        places: Mapping[str, LayerPlace],
        grids: Sequence[LayerGrid],
        *,
        layers: Sequence[Mapping[str, Sequence[Sequence[float]]]],
        wholes: Sequence[tuple[Mapping[str, int], Mapping[str, float]]],
        environment: Mapping[str, Any] | None = None,
    ) -> LatencyTable:
        """Make noise monotone, and put whole networks against the sums over their layers.

        Args:
            size: the call that was timed.
            places: layer → its grid and axes.
            grids: kinds of layers and widths.
            layers: for each grid, runtime → milliseconds `(reads, units)`.
            wholes: whole networks from the smallest to the largest: axis → units, and runtime → milliseconds.
            environment: versions and hardware.
        """
        runtimes = tuple(wholes[0][1])
        tables = []
        for grid, measured in zip(grids, layers, strict=True):
            table = torch.tensor([measured[runtime] for runtime in runtimes], dtype=torch.float64)
            tables.append(_rising(table.reshape(-1, len(grid.reads), len(grid.units)), (1, 2)))
        empty = torch.ones(len(runtimes), 2, len(wholes), dtype=torch.float64)
        # torch.__version__ is of a class of its own, with which a checkpoint could not be loaded without pickle
        plain = json.loads(json.dumps(dict(environment or {})))
        table = cls(size, runtimes, tuple(grids), dict(places), tuple(tables), empty, plain)
        sums = torch.stack([table.sums(widths) for widths, _ in wholes], 1)
        measured = torch.tensor([[times[runtime] for _, times in wholes] for runtime in runtimes], dtype=torch.float64)
        return replace(table, whole=_rising(torch.stack((sums, measured), 1), (2,)))

    def __call__(self, widths: Mapping[str, Number]) -> Number:
        """Milliseconds per call of a network of some widths.

        Args:
            widths: axis → units, whole or expected; below one unit, and above those of the whole network, the latency
                is that of the nearest measured.

        Returns:
            A float, or where a width is a tensor a scalar float64 tensor through which gradients flow.
        """
        sums = self.sums(widths)
        each = [_interpolated(curve[0], curve[1], total) for curve, total in zip(self.whole, sums, strict=True)]
        fastest = torch.stack(each).min()
        axes = {axis for place in self.places.values() for axis in (*place.reads, *place.units)}
        is_exact = not any(isinstance(widths[axis], Tensor) for axis in axes)
        return float(fastest) if is_exact else fastest

    def sums(self, widths: Mapping[str, Number]) -> Tensor:
        """Milliseconds added up over the layers, `(runtime,)`, before whole networks are taken into account."""
        total = torch.zeros(len(self.runtimes), dtype=torch.float64)
        for place in self.places.values():
            grid, table = self.grids[place.grid], self.milliseconds[place.grid].log()
            read, along_reads = _position(_logarithms(grid.reads), _added(widths, place.reads))
            unit, along_units = _position(_logarithms(grid.units), _added(widths, place.units))
            rows = table[:, read] * (1 - along_reads) + table[:, min(read + 1, len(grid.reads) - 1)] * along_reads
            next_unit = min(unit + 1, len(grid.units) - 1)
            total = total + (rows[:, unit] * (1 - along_units) + rows[:, next_unit] * along_units).exp()
        return total

    def values(self) -> Tensor:
        """Everything measured, in one vector, whose length follows from the network alone."""
        return torch.cat([table.flatten() for table in (*self.milliseconds, self.whole)])

    def with_values(self, values: Tensor, *, environment: Mapping[str, Any] | None = None) -> LatencyTable:
        """The table of the same network with other measurements, as `values` gave them.

        Args:
            values: one vector.
            environment: where they were measured; that of this table if None.
        """
        parts = list(
            values.detach().cpu().double().split([table.numel() for table in (*self.milliseconds, self.whole)])
        )
        whole = parts.pop().reshape(self.whole.shape)
        tables = tuple(part.reshape(old.shape) for part, old in zip(parts, self.milliseconds, strict=True))
        environment = self.environment if environment is None else dict(environment)
        return replace(self, milliseconds=tables, whole=whole, environment=environment)

    def digest(self) -> Tensor:
        """What latency depends on in the environment, in a size that a checkpoint can expect: `(8,)`, uint8."""
        decisive = {name: self.environment.get(name) for name in DECISIVE}
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).digest()
        return torch.tensor(list(digest[:8]), dtype=torch.uint8)

    def differences(self, environment: Mapping[str, Any]) -> list[str]:
        """What latency depends on and is not as it was when the table was measured.

        Args:
            environment: as `l0rnn.bench_report.environment` gives it.
        """
        theirs = {name: self.environment.get(name) for name in DECISIVE}
        return [
            f"{name}: {printable(old, 80)}, now {environment.get(name)}"
            for name, old in theirs.items()
            if old != environment.get(name)
        ]

    def check_fits(self, size: CallSize, places: Mapping[str, LayerPlace], grids: Sequence[LayerGrid]) -> None:
        """Refuse a table of other calls, or of another network.

        Raises:
            ValueError: if it is not of this call size or these layers.
        """
        if self.size != size:
            raise ValueError(f"`table` was measured for {self.size}, but {size} is asked for; leave it out to measure")
        if self.places != dict(places) or self.grids != tuple(grids):
            raise ValueError(
                "`table` was measured on a network of other layers or widths; make a new budget without it to measure"
            )

    def plain(self) -> dict[str, Any]:
        """As dicts, lists, numbers and strings, for JSON and checkpoints."""
        return {
            "size": asdict(self.size),
            "runtimes": list(self.runtimes),
            "grids": [
                {**asdict(grid), "reads": list(grid.reads), "units": list(grid.units), "milliseconds": table.tolist()}
                for grid, table in zip(self.grids, self.milliseconds, strict=True)
            ],
            "places": {
                name: {"grid": place.grid, "reads": list(place.reads), "units": list(place.units)}
                for name, place in self.places.items()
            },
            "whole": self.whole.tolist(),
            "environment": self.environment,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> LatencyTable:
        """The table that `plain` described.

        Raises:
            ValueError: if it is not such a description, or holds anything but milliseconds > 0.
        """
        try:
            grids = tuple(
                LayerGrid(grid["layer"], grid["bias"], tuple(grid["reads"]), tuple(grid["units"]))
                for grid in plain["grids"]
            )
            runtimes = tuple(plain["runtimes"])
            tables = [
                torch.tensor(part["milliseconds"], dtype=torch.float64).reshape(
                    len(runtimes), len(g.reads), len(g.units)
                )
                for g, part in zip(grids, plain["grids"], strict=True)
            ]
            whole = torch.tensor(plain["whole"], dtype=torch.float64).reshape(len(runtimes), 2, -1)
            places = {
                name: LayerPlace(int(place["grid"]), tuple(place["reads"]), tuple(place["units"]))
                for name, place in plain["places"].items()
            }
            table = cls(
                CallSize(**plain["size"]), runtimes, grids, places, tuple(tables), whole, dict(plain["environment"])
            )
            is_sound = bool(((table.values() > 0) & table.values().isfinite()).all())
            is_sound &= all(0 <= place.grid < len(grids) for place in places.values())
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"`table` must be a latency table as `LatencyTable.plain` gives it: {printable(repr(error))}"
            ) from error
        if not is_sound:
            raise ValueError("`table` must hold milliseconds > 0 for every layer; leave it out to measure")
        return table

    def save(self, path: str | Path) -> None:
        """Write `plain` to a file, as JSON."""
        Path(path).write_text(json.dumps(self.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read the table that `save` wrote.

        Raises:
            ValueError: if the file holds anything else.
        """
        if not Path(path).is_file() or Path(path).stat().st_size > MOST_BYTES:  # a pipe would never end
            raise ValueError(f"`table` must be a JSON file of at most {MOST_BYTES:,} bytes, but {path} is not")
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"`table` must be a JSON file of a latency table, but {path} is not: {printable(error)}"
            ) from error
        return cls.from_plain(plain)


def _rising(times: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    """Measurements without the noise that would make something wider faster.

    The geometric mean of the largest so far and the smallest from here on: both rise, and neither moves what rises.
    """
    upper = lower = times
    for dimension in dimensions:
        upper = upper.cummax(dimension).values
        lower = lower.flip(dimension).cummin(dimension).values.flip(dimension)
    return (upper * lower).sqrt()


def _added(widths: Mapping[str, Number], axes: tuple[str, ...]) -> Tensor:
    """Units of several axes together; on the CPU, since everything here is a handful of numbers."""
    return sum((torch.as_tensor(widths[axis]).cpu().double() for axis in axes), torch.zeros((), dtype=torch.float64))


def _logarithms(widths: tuple[int, ...]) -> Tensor:
    return torch.tensor(widths, dtype=torch.float64).log()


def _position(grid: Tensor, width: Tensor) -> tuple[int, Tensor]:
    """The cell of an increasing grid that holds the logarithm of a width, and how far in, in [0, 1]."""
    if len(grid) == 1:
        return 0, torch.zeros((), dtype=torch.float64)
    place = width.clamp(min=1e-6).log().clamp(float(grid[0]), float(grid[-1]))
    cell = int(torch.searchsorted(grid[1:-1].contiguous(), place.detach(), right=True))
    return cell, (place - grid[cell]) / (grid[cell + 1] - grid[cell]).clamp(min=1e-12)


def _interpolated(xs: Tensor, ys: Tensor, x: Tensor) -> Tensor:
    """Through points that rise, linear in the logarithms of both; constant beyond the first and the last."""
    cell, along = _position(xs.log(), x)
    following = min(cell + 1, len(ys) - 1)
    return (ys[cell].log() * (1 - along) + ys[following].log() * along).exp()
