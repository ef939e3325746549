"""Train a recurrent network with a gate on every unit, then shrink it to the smaller dense network that is left."""

import lazy_loader

from l0rnn.version import __version__ as __version__

# public names are the lines of __init__.pyi: imported when they are first used, and known to type checkers
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
