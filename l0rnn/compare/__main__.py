"""One run of a comparison, in a process of its own: ``python -m l0rnn.compare FOLDER QUALITY FINAL``."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from l0rnn.compare.one_run import CONFIG, train_run

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    train_run(config, folder, quality=sys.argv[2], final=sys.argv[3])
