"""Strings of the Reber grammar: the automaton decides, wrong ones are wrong in the way they say, batches hold all."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from recipes.reber.data import Batches, Example, figures, make_examples, read_examples, split, spoiled, write_examples
from recipes.reber.grammar import Grammar, read_grammar

# the same language written down by hand, as a regular expression: a slow and obvious second opinion
STATE_2 = "T*V"  # from state 2 to state 4, which P leaves for state 3 and V for the end
FROM_2 = f"{STATE_2}(?:PX{STATE_2})*(?:PS|V)"
REBER = re.compile(f"B(?:TS*X(?:S|X{FROM_2})|P{FROM_2})E")


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return read_grammar()


# ------------------------------------------------------------------------------------------------------------ grammar


@pytest.mark.parametrize("text", ["BTSXXTVVE", "BPVVE", "BTXSE", "BPTVPXTTVPSE", "BTSSSXSE"])
def test_strings_of_the_grammar(grammar: Grammar, text: str):
    assert REBER.fullmatch(text)
    assert grammar.accepts(text)


@pytest.mark.parametrize("text", ["", "B", "BE", "BTSXE", "BPVVEE", "BPVV", "TPVVE", "BPSE", "bpvve"])
def test_strings_of_no_grammar(grammar: Grammar, text: str):
    assert not REBER.fullmatch(text)
    assert not grammar.accepts(text)


def test_all_short_strings_agree_with_the_expression(grammar: Grammar):
    accepted, waiting = [], ["B"]
    for _ in range(5):
        waiting = [text + symbol for text in waiting for symbol in "BTPSXVE"]
        for text in waiting:
            assert grammar.accepts(text) == bool(REBER.fullmatch(text)), text
        accepted += [text for text in waiting if grammar.accepts(text)]
    assert accepted == ["BTXSE", "BPVVE", "BTSXSE", "BPTVVE", "BPVPSE"]


def test_draws_are_accepted_and_seeded(grammar: Grammar):
    drawn = [grammar.draw(random.Random(seed)) for seed in range(300)]
    assert all(REBER.fullmatch(text) for text in drawn)
    assert drawn == [grammar.draw(random.Random(seed)) for seed in range(300)]
    assert len(set(drawn)) > 50


def test_every_way_out_is_as_likely(grammar: Grammar):
    generator = random.Random(0)
    second = Counter(grammar.draw(generator)[1] for _ in range(2000))
    assert abs(second["T"] - 1000) < 100


def test_states_before_each_symbol(grammar: Grammar):
    assert grammar.states("BPVVE") == ["start", "0", "2", "4", "5"]
    assert grammar.states("BPVV") is None
    assert grammar.alphabet == "BEPSTVX"


@pytest.mark.parametrize(
    ("transitions", "message"),
    [
        ({"0": {"B": "end"}}, "`transitions` must have the state 'start'"),
        ({"start": {"B": "end"}, "end": {"X": "start"}}, "`transitions` must not leave 'end'"),
        ({"start": {"BB": "end"}}, "one ASCII character, got 'BB'"),
        ({"start": {"é": "end"}}, "one ASCII character, got 'é'"),
        ({"start": {"B": "nowhere"}}, "from 'start' to 'nowhere', which is no state"),
        ({"start": {"B": "a", "E": "end"}, "a": {}}, "a dead end: from the state 'a' no path leads to 'end'"),
        ({"start": {"B": "a", "E": "end"}, "a": {"S": "a"}}, "a dead end: from the state 'a' no path"),
        ({"start": {"E": "end"}, "a": {"E": "end"}}, "never lead to the state 'a'"),
    ],
)
def test_bad_grammars(transitions: dict[str, dict[str, str]], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Grammar(transitions)


def test_grammar_file_with_a_dead_end(tmp_path: Path):
    path = tmp_path / "trap.yaml"
    path.write_text("start: {B: 0}\n0: {T: 1, E: end}\n1: {S: 1}\n")
    with pytest.raises(ValueError, match=r"trap\.yaml: .*dead end: from the state '1'.*add a transition"):
        read_grammar(path)


def test_grammar_files_that_are_none(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"`grammar` must name a file, but there is no .*missing\.yaml"):
        read_grammar(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="must map each state to its symbols"):
        read_grammar(tmp_path / "list.yaml")


# ------------------------------------------------------------------------------------------------------------ strings


@pytest.mark.parametrize("kind", ["first", "swapped", "foreign"])
def test_spoiled_strings_are_rejected_and_keep_their_ends(grammar: Grammar, kind: str):
    generator = random.Random(1)
    made = 0
    for _ in range(300):
        text = grammar.draw(generator)
        changed = spoiled(text, kind, grammar, generator)
        if changed is None:
            continue
        made += 1
        assert not REBER.fullmatch(changed)
        assert (len(changed), changed[0], changed[-1]) == (len(text), "B", "E")
        assert bool(set(changed) - set(grammar.alphabet)) == (kind == "foreign")
        differing = [place for place, (old, new) in enumerate(zip(text, changed, strict=True)) if old != new]
        if kind == "first":
            assert differing == [1]
        if kind == "swapped":
            states = grammar.states(text)
            assert states is not None
            assert len({states[place] for place in differing}) == 1
            assert states[differing[0]] != "0"
    assert made > 100


def test_spoiling_refuses_what_it_does_not_know(grammar: Grammar):
    with pytest.raises(ValueError, match="`kind` must be first, swapped or foreign, got 'last'"):
        spoiled("BPVVE", "last", grammar, random.Random(0))
    with pytest.raises(ValueError, match="`text` must be a string of the grammar, got 'BE'"):
        spoiled("BE", "first", grammar, random.Random(0))


@pytest.mark.parametrize("negatives", ["original", "hard"])
def test_examples_are_balanced_unique_and_labelled_right(grammar: Grammar, negatives):
    examples = make_examples(grammar, 1000, 3, negatives=negatives)
    assert len({example.text for example in examples}) == 1000
    assert sum(example.label for example in examples) == 500
    for example in examples:
        assert example.label == bool(REBER.fullmatch(example.text))
        assert len(example.text) >= 11
    kinds = Counter(example.kind for example in examples)
    wanted = (
        {"first": 60, "swapped": 160, "foreign": 280} if negatives == "original" else {"first": 136, "swapped": 364}
    )
    assert kinds == {"valid": 500, **wanted}


def test_lengths_tell_nothing_about_hard_strings(grammar: Grammar):
    found = figures(make_examples(grammar, 2000, 0, negatives="hard"))
    assert abs(found["mean_length_valid"] - found["mean_length_wrong"]) < 0.6
    original = figures(make_examples(grammar, 2000, 0))
    assert original["mean_length_valid"] - original["mean_length_wrong"] > 1


def test_examples_are_seeded(grammar: Grammar):
    assert make_examples(grammar, 200, 3) == make_examples(grammar, 200, 3)
    assert make_examples(grammar, 200, 3) != make_examples(grammar, 200, 4)


def test_bad_requests(grammar: Grammar):
    with pytest.raises(ValueError, match="`count` must be an even number of strings, at least 4, got 7"):
        make_examples(grammar, 7, 0)
    with pytest.raises(ValueError, match="`negatives` must be one of original, hard, got 'easy'"):
        make_examples(grammar, 10, 0, negatives="easy")  # type: ignore[arg-type]
    one_string = Grammar({"start": {"B": "a"}, "a": {"E": "end"}})
    with pytest.raises(ValueError, match="`count` must be less than 10: the grammar gave no new valid string"):
        make_examples(one_string, 10, 0, shortest=2)


def test_files_and_parts(grammar: Grammar, tmp_path: Path):
    examples = make_examples(grammar, 100, 0)
    write_examples(examples, tmp_path / "data" / "strings.csv")
    assert read_examples(tmp_path / "data" / "strings.csv") == examples
    train, test = split(examples, 0.25)
    assert (len(train), len(test)) == (75, 25)
    assert train + test == examples
    with pytest.raises(ValueError, match=r"`test_share` must be a fraction of the strings in \(0, 1\), got 1"):
        split(examples, 1)


# ------------------------------------------------------------------------------------------------------------ batches


def decoded(codes: torch.Tensor) -> list[str]:
    return ["".join(map(chr, column)).rstrip("\0") for column in codes.t().tolist()]


@pytest.mark.parametrize("readout", ["last_padded", "last_symbol"])
@pytest.mark.parametrize("seed", [None, 5])
def test_an_epoch_has_every_string_once_and_reads_it_where_it_says(grammar: Grammar, readout, seed: int | None):
    examples = make_examples(grammar, 100, 0)
    batches = Batches(examples, 16, readout, seed)
    seen = []
    for codes, last, labels in batches:
        texts = decoded(codes)
        assert codes.shape[0] == max(map(len, texts))
        wanted = [len(text) - 1 for text in texts] if readout == "last_symbol" else [codes.shape[0] - 1] * len(texts)
        assert last.tolist() == wanted
        seen += list(zip(texts, labels.tolist(), strict=True))
    assert sorted(seen) == sorted((example.text, example.label) for example in examples)
    assert len(batches) == 7


def test_order_changes_with_the_epoch_and_returns_with_the_seed(grammar: Grammar):
    examples = make_examples(grammar, 100, 0)

    def epochs(seed: int | None) -> list[list[str]]:
        batches = Batches(examples, 16, "last_padded", seed)
        return [[text for codes, _, _ in batches for text in decoded(codes)] for _ in range(2)]

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(1)[1]
    assert epochs(1) != epochs(2)
    assert epochs(None) == 2 * [[example.text for example in examples]]


def test_strings_of_a_length_share_a_batch(grammar: Grammar):
    examples = make_examples(grammar, 400, 0)

    def zeros(readout) -> int:
        return sum(int((codes == 0).sum()) for codes, _, _ in Batches(examples, 32, readout, 0))

    assert zeros("last_symbol") < 0.2 * zeros("last_padded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": []}, "`examples` must not be empty"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"readout": "first"}, "`readout` must be one of last_padded, last_symbol, got 'first'"),
    ],
)
def test_bad_batches(change: dict[str, object], message: str):
    options = {"examples": [Example("BE", "valid")], "batch_size": 2, "readout": "last_symbol", **change}
    with pytest.raises(ValueError, match=message):
        Batches(**options)  # type: ignore[arg-type]
