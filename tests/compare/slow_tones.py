"""The task of tones.py with steps that take a while, and a line in a file for each of them."""

import os
import time
from pathlib import Path

from tests.compare import tones
from tests.compare.tones import data, evaluate, network, optimizer  # noqa: F401

epochs = 4


def loss(network, batch):  # noqa: F811
    told = os.environ.get("STEPS_OF_TONES")
    if told:
        with Path(told).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(float(os.environ.get("SECONDS_OF_TONES", "0.1")))
    return tones.loss(network, batch)
