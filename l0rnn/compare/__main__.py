"""One run of a comparison, in a process of its own: ``python -m l0rnn.compare FOLDER QUALITY FINAL KEY …``."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from l0rnn.compare.one_run import CONFIG, PAUSED, train_run
from l0rnn.training.callbacks import Paused

if __name__ == "__main__":
    folder, quality, final, key, *extra = sys.argv[1:]
    config = yaml.safe_load((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    try:
        train_run(config, Path(folder), quality=quality, final=final, key=key, extra=extra)
    except Paused:
        sys.exit(PAUSED)
