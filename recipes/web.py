"""A page that runs networks of the recipes in the browser, dense and small side by side.

python -m recipes.web --out out/web
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import l0rnn
from l0rnn.export import WebDemo, WebModel, load_dense, read_vocabulary, words_demo, write_web
from l0rnn.models import load_model
from l0rnn.surgery.shrink import shrink
from recipes.g2p.onnx_file import save_onnx
from recipes.g2p.package import published_arrays, read_arrays
from recipes.g2p.symbols import LETTERS, PHONEMES


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/web"), help="folder of the page (default: out/web)")
    parser.add_argument(
        "--demo", type=Path, default=Path("out/demo"), help="what `make demo` wrote (default: out/demo)"
    )
    options = parser.parse_args(arguments)
    demos = [spelling_demo()]
    if (options.demo / "gated" / "shrunk").is_dir():
        demos.append(writing_demo(options.demo))
    else:
        print(f"without a language model, since {options.demo} has none; `make demo` trains it")
    write_web(demos, options.out, overwrite=True)
    print(f"written to {options.out}; to see it: python -m http.server --directory {options.out}")


def spelling_demo() -> WebDemo:
    """The published network of g2p_en, and the one pruned to an eighth, each in float32 and int8."""
    small = read_arrays(l0rnn.models()["g2p"].folder / "checkpoint20.npz")
    models = [
        _model(f"{name}{', int8' if int8 else ''}", arrays, int8=int8)
        for name, arrays in (("dense", published_arrays()), ("small", small))
        for int8 in (False, True)
    ]
    return WebDemo(
        kind="spelling",
        title="A network pronounces what you type",
        about=(
            "Letters to the phonemes of American English: the published network of g2p_en, and what is left of it "
            "after pruning to an eighth of the multiply-adds. On words that the published one has seen in its "
            "training, the small one is wrong more often; on others it is as good."
        ),
        text="activationist",
        length=40,
        models=models,
        settings={"letters": LETTERS, "symbols": PHONEMES, "end": LETTERS.index("</s>")},
    )


def writing_demo(demo: Path) -> WebDemo:
    """The dense language model of `make demo`, and the small one."""
    small = demo / "gated" / "shrunk"
    networks = {
        "dense": shrink(load_model(demo / "dense" / "checkpoints" / "last.ckpt")),  # which has nothing to cut
        "small": load_dense(small),
    }
    about = (
        "Type a beginning. Each network draws the next word from what it has read, and then the next. Both were "
        "trained for minutes on newspaper text of 1989, so they have its words rather than its sense; N is a number."
    )
    return words_demo(networks, read_vocabulary(small), text="the company said", about=about)


def _model(name: str, arrays: Any, *, int8: bool) -> WebModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g2p.onnx"
        save_onnx(path, arrays, int8=int8)
        letters = [*(LETTERS.index(letter) for letter in "neural"), LETTERS.index("</s>")]
        return WebModel(
            name, path.read_bytes(), {"letters": np.array(letters)}, {"input": "letters", "output": "phonemes"}
        )


if __name__ == "__main__":
    main()
