"""Training a network while it is pruned: in any loop, under Lightning, or by Hugging Face's Trainer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
