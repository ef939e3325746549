"""The kernel table multiplies what it says it does, at the density it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from recipes.penn_treebank import kernel_table

SIZE = (37, 22)


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_every_form_gives_the_product_of_its_dense_matrix(batch: int) -> None:
    found = kernel_table.products(SIZE, 0.3, batch, [4, 16])
    assert {product.form for product in found} == {
        "dense",
        "dense with zeros",
        "smaller dense",
        "CSR",
        "BSR 4 × 4",
        "BSR 16 × 16",
    }
    for product in found:
        got = product.call()
        expected = product.dense @ product.right
        torch.testing.assert_close(got.t() if product.kernel == "linear" else got, expected, atol=1e-5, rtol=1e-5)


def test_all_forms_keep_as_many_weights() -> None:
    found = {product.form: product for product in kernel_table.products((64, 32), 0.25, 1, [4])}
    assert found["dense"].dense.numel() == 2048
    assert found["smaller dense"].dense.numel() == 512
    for form in ("dense with zeros", "CSR", "BSR 4 × 4"):
        assert found[form].dense.count_nonzero() == 512
    assert found["CSR"].stored == 512 * 8 + 65 * 4


def test_blocks_are_whole_and_tiled_from_the_corner() -> None:
    mask = kernel_table.block_mask((6, 10), 4, 0.5)
    for row in range(6):
        for column in range(10):
            assert mask[row, column] == mask[row // 4 * 4, column // 4 * 4]
    corners = mask[::4, ::4]
    assert corners.sum() == 3  # of 2 × 3 blocks


def test_the_smaller_matrix_has_the_form_of_the_larger() -> None:
    assert kernel_table.smaller((6000, 1500), 0.1) == (1897, 474)
    assert kernel_table.smaller((6000, 1500), 1.0) == (6000, 1500)


def test_ratios_are_those_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are made up: each product takes its place in the list, twice as long in the second of three rounds."""
    found = kernel_table.products(SIZE, 0.3, 1, [4])
    calls = {id(product.call): place + 1 for place, product in enumerate(found)}
    seen: dict[int, int] = {}

    def seconds(call: object, repeat: int) -> float:
        place = calls[id(call)]
        seen[place] = seen.get(place, 0) + 1
        return place * (2.0 if seen[place] == 3 else 1.0)  # the first time is the one that sets the repeats

    monkeypatch.setattr(kernel_table, "_seconds", seconds)
    rows = kernel_table.compare(found, 1, rounds=3)
    for place, row in enumerate(rows, start=1):
        assert row["ms"] == 1000 * place
        assert row["least"] == row["speedup"] == row["most"] == pytest.approx(1 / place)


def test_the_script_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.json"
    sizes = ["--rows", "16", "--columns", "8", "--batch", "1", "2", "--block", "4", "--rounds", "1", "--density", "0.5"]
    monkeypatch.setattr(kernel_table, "SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["kernel_table", *sizes, "--out", str(out)])
    kernel_table.main()
    result = json.loads(out.read_text())
    assert result["size"] == {
        "rows": 16,
        "columns": 8,
        "density": 0.5,
        "threads": 1,
        "rounds_of_timing": 1,
        "smaller_dense": [11, 6],
    }
    assert result["environment"]["torch"] == torch.__version__
    for batch in (1, 2):
        for form in ("dense", "CSR", "BSR 4 × 4"):
            chosen = [
                row for row in result["rows"] if (row["batch"], row["form"]) == (batch, form) and row["is_chosen"]
            ]
            assert len(chosen) == 1
            assert chosen[0]["ms"] > 0


def test_the_density_must_be_a_fraction(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kernel_table", "--density", "10"])
    with pytest.raises(SystemExit):
        kernel_table.main()
    assert "--density must be in (0, 1], got 10" in capsys.readouterr().err
