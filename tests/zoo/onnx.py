"""Which networks of the zoo ONNX can hold, shrunken: each is exported at the example's sizes and run in ONNX Runtime.

python -m tests.zoo.onnx      writes tests/zoo/onnx.json, which the table of docs/zoo.md shows; takes some minutes
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from l0rnn import shrink
from l0rnn.export import export_onnx
from l0rnn.export.onnx_any import EXPORTERS
from l0rnn.surgery.kept import units_to_keep
from l0rnn.surgery.proof import Widths
from l0rnn.surgery.trial import tried_units
from tests.zoo.registry import ZOO

RESULT = Path(__file__).with_name("onnx.json")


def exported(name: str) -> str:
    """``yes``, ``yes, by torch's older exporter``, or why not."""
    network, inputs = ZOO[name].network(), ZOO[name].example_inputs()
    units = tried_units(network, inputs)
    gates = {axis: (torch.arange(found.size) % 2 == 0).float() for axis, found in units.axes.items()}
    small = shrink(network, gates, example_inputs=inputs, units=units)
    inputs = Widths(units, units_to_keep(units, units.vector(gates, 1.0))).smaller_inputs(inputs)
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(small, Path(folder) / "model", example_inputs=inputs, dynamic_axes={})
            config = json.loads((Path(folder) / "model" / "config.json").read_text(encoding="utf-8"))
        except Exception as error:  # whatever the exporters raise
            return f"no: {type(error).__name__}"
    return "yes" if config["exporter"] == EXPORTERS[True] else "yes, by torch's older exporter"


def main() -> None:
    """Export all, and write what came of it."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = {name: exported(name) for name in tqdm(ZOO, desc="exporting", unit="network")}
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(why.startswith('yes') for why in found.values())} of {len(found)} exported")


if __name__ == "__main__":
    main()
