"""A shrunken network leaves home: formats in which it runs without the gates, without this library, without torch."""

from l0rnn.export.config import read_config
from l0rnn.export.executorch_file import export_executorch
from l0rnn.export.int8 import Int8Report, export_int8
from l0rnn.export.measure import perplexity, text_columns
from l0rnn.export.native import load_dense, save_dense
from l0rnn.export.onnx_file import export_onnx
from l0rnn.export.onnx_run import OnnxNetwork
from l0rnn.export.open_streamer import open_streamer
from l0rnn.export.program import export_program
from l0rnn.export.streaming import Streamer, TorchStreamer
from l0rnn.export.torch_file import export_torch
from l0rnn.export.untrusted_json import read_json
from l0rnn.export.vocabulary import checked_vocabulary, read_vocabulary
from l0rnn.export.web import WebDemo, WebModel, export_web, words_demo, write_web

__all__ = [
    "Int8Report",
    "OnnxNetwork",
    "Streamer",
    "TorchStreamer",
    "WebDemo",
    "WebModel",
    "checked_vocabulary",
    "export_executorch",
    "export_int8",
    "export_onnx",
    "export_program",
    "export_torch",
    "export_web",
    "load_dense",
    "open_streamer",
    "perplexity",
    "read_config",
    "read_json",
    "read_vocabulary",
    "save_dense",
    "text_columns",
    "words_demo",
    "write_web",
]
