"""One run of a comparison, in a process of its own: ``python -m l0rnn.compare FOLDER QUALITY FINAL KEY …``."""

from __future__ import annotations

import sys

from l0rnn.compare.one_run import main, train_run

if __name__ == "__main__":
    sys.exit(main(train_run, sys.argv[1:]))
