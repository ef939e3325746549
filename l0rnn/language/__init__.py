"""The language model of the recipes in plain torch, its loss, and a loss with a teacher."""

from l0rnn.language.language_model import LanguageModel

__all__ = ["LanguageModel"]
