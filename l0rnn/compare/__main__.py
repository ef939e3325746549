"""One run of a comparison, in a process of its own: ``python -m l0rnn.compare FOLDER``."""

from __future__ import annotations

import sys

from l0rnn.compare.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
