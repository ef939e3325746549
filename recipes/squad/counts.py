"""What was found in the files, and what was done with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class SplitReport:
    """Counts of one split. An answer is the first one of its question; `exact + covered + dropped == questions`.

    Attributes:
        file: ``"official"``, ``"rebuilt"`` or ``"another"``.
        exact: answers that begin and end with a token.
        covered: answers that do not; the span is the smallest number of tokens around them.
        dropped: answers without any token.
        long_contexts: contexts longer than the longest allowed; they are cut.
        questions_on_long: questions on these. They are left out in training and answered in evaluation.
        beyond: questions on these whose answer is cut off, in whole or in part.
        long_questions: questions longer than the longest allowed; they are cut.
        vector_coverage: share of the tokens of contexts and questions that have a pre-trained vector.
        known: share that has a vector of its own, pre-trained or not.
    """

    file: str
    md5: str
    articles: int
    paragraphs: int
    questions: int
    exact: int
    covered: int
    dropped: int
    long_contexts: int
    questions_on_long: int
    beyond: int
    long_questions: int
    context_tokens: int
    question_tokens: int
    vector_coverage: float
    known: float


@dataclass
class Report:
    """What was prepared from which files."""

    train: SplitReport
    dev: SplitReport
    words: int
    words_without_vector: int
    characters: int
    features: int
    max_context: int
    max_question: int

    def _rows(self) -> list[tuple[str, str, str]]:
        context, question = f"more than {self.max_context} tokens", f"more than {self.max_question} tokens"
        labels = {
            "file": "file",
            "articles": "articles",
            "paragraphs": "paragraphs",
            "questions": "questions",
            "exact": "answers that begin and end with a token",
            "covered": "answers covered by whole tokens",
            "dropped": "answers without a token",
            "long_contexts": f"contexts of {context}, cut",
            "questions_on_long": "questions on these: not trained, but evaluated",
            "beyond": "of these, with the answer cut off",
            "long_questions": f"questions of {question}, cut",
            "context_tokens": "tokens of the contexts, cut",
            "question_tokens": "tokens of the questions, cut",
            "vector_coverage": "tokens with a pre-trained vector",
            "known": "tokens with a vector of their own",
        }
        train, dev = asdict(self.train), asdict(self.dev)
        return [(label, _written(train[name]), _written(dev[name])) for name, label in labels.items()]

    def _last_line(self) -> str:
        return (
            f"{self.words:,} words, {self.words_without_vector:,} of them without a pre-trained vector; "
            f"{self.characters:,} characters; {self.features} features per word"
        )

    def table(self) -> str:
        """The report as a Markdown table."""
        rows = "\n".join(f"| {label} | {train} | {dev} |" for label, train, dev in self._rows())
        return f"| | train | dev |\n|---|---|---|\n{rows}\n\n{self._last_line()}"

    def plain(self) -> str:
        """The report for a terminal."""
        rows = [("", "train", "dev"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        return "\n".join([*lines, self._last_line()])


def _written(value: object) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)
