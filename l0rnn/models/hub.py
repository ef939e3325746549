"""Share a shrunken language model on the Hugging Face Hub; needs the extra ``hub``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from l0rnn.export.config import Figures, read_config
from l0rnn.export.describe import refuse_gates
from l0rnn.export.directory import CARD, CONFIG, VOCABULARY, WEIGHTS
from l0rnn.export.native import load_dense, save_dense
from l0rnn.export.vocabulary import read_vocabulary
from l0rnn.extras import require

_hub: Any = require("huggingface_hub", "hub")
_SPLIT = re.compile(r"(train|valid|validation|test)[ _/](.+)")  # of a figure's name: split and metric


class HubLanguageModel(nn.Module, _hub.ModelHubMixin):
    """A shrunken `LanguageModel` with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    The config is made from the network as it is when it is saved, so after surgery it describes the small one. The
    files are those of the native format: nothing is pickled, and everything is checked before it is loaded.

    Args:
        network: what `shrink` returned.
        vocabulary: its words in the order of their ids.
        figures: what was measured, for the model card. Those of a split, such as ``"test perplexity"``, are evaluation
            results in its metadata, which the page of a model on the Hub shows.
        dataset: name of the data that they were measured on.

    Raises:
        ValueError: if the network has gates.

    Example:
        >>> import tempfile
        >>> from l0rnn.language.language_model import LanguageModel
        >>> place = tempfile.mkdtemp()
        >>> _ = HubLanguageModel(LanguageModel(50, 4, 6)).save_pretrained(place)
        >>> HubLanguageModel.from_pretrained(place).network.encoder
        LSTM(4, 6, num_layers=2)
    """

    def __init__(
        self,
        network: nn.Module,
        vocabulary: Sequence[str] | None = None,
        *,
        figures: Figures | None = None,
        dataset: str = "held-out text",
    ) -> None:
        super().__init__()
        refuse_gates(network)
        self.network = network
        self.vocabulary = vocabulary
        self.figures = figures
        self.dataset = dataset

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run the network."""
        return self.network(tokens, state)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        overwrite: bool = False,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> str | None:
        """Write the native format to a directory, and to the Hub if asked for.

        Args:
            save_directory: where to write.
            overwrite: whether a model that is there may be replaced.
            repo_id: repository on the Hub; the directory's name if None.
            push_to_hub: whether to upload it.
            **push_options: as for `push_to_hub`; without uploading they are not used.

        Returns:
            The address of the upload, if there was one.

        Raises:
            ValueError: as `save_dense`.
            FileExistsError: as `save_dense`.
        """
        directory = Path(save_directory)
        save_dense(self.network, directory, vocabulary=self.vocabulary, figures=self.figures, overwrite=overwrite)
        self._write_results(directory / CARD, (repo_id or directory.name).rpartition("/")[2])
        return self.push_to_hub(repo_id or directory.name, **push_options) if push_to_hub else None

    def _write_results(self, card: Path, name: str) -> None:
        """Evaluation results in the metadata of the card, by which the Hub lists and compares models."""
        found = [(_SPLIT.fullmatch(figure), value) for figure, value in (self.figures or {}).items()]
        results = [
            _hub.EvalResult(
                task_type="text-generation",
                dataset_type=re.sub(r"[^a-z0-9]+", "-", self.dataset.lower()).strip("-") or "text",
                dataset_name=self.dataset,
                dataset_split=split[1],
                metric_type=split[2].replace(" ", "_"),
                metric_name=f"{split[1]} {split[2].replace('_', ' ')}",
                metric_value=value,
            )
            for split, value in found
            if split and not isinstance(value, str)
        ]
        if results:
            whole = _hub.ModelCard.load(card)
            whole.data.model_name, whole.data.eval_results = name, results
            whole.data.pipeline_tag = "text-generation"
            whole.save(card)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> HubLanguageModel:
        """Load a model from a directory, or from the Hub.

        Args:
            pretrained_model_name_or_path: a directory, or the name of a repository.
            **download: for a repository, as for `huggingface_hub.snapshot_download`: ``revision``, ``token``, ….

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is not what it should be.
        """
        directory = Path(pretrained_model_name_or_path)
        if not directory.is_dir():
            files = [CONFIG, WEIGHTS, VOCABULARY]
            directory = Path(
                _hub.snapshot_download(str(pretrained_model_name_or_path), allow_patterns=files, **download)
            )
        network = load_dense(directory)
        config = read_config(directory)
        vocabulary = read_vocabulary(directory) if config.has_vocabulary else None
        return cls(network, vocabulary, figures=config.figures).eval()
