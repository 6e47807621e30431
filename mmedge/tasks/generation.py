"""A text that is written token by token: a caption, a translation, a spoken command; judged by the words that are right.

The metric is ROUGE-L, which of texts of one word is the share that is just right, and tells captions apart of which none is.

An output row is the log probability of a text, and then its tokens: those of the head's tokenizer, the end after the last,
and padding (0) behind. A row without an end is one that was stopped at the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np

from mmedge import tokenizer
from mmedge.tasks import alone, texts, unlabelled
from mmedge.tasks.cells import CellFault, Cells, TargetCard, defining_splits
from mmedge.tasks.head import Decoding, Head, Target
from mmedge.tasks.prediction import Prediction
from mmedge.tasks.scale import Scale

OUTPUT, METRIC = "text", "rouge_l"
LABELS, SEVERAL, EXCLUSIVE, BALANCED, UNIT, CONFIDENCE = False, False, False, False, False, False
ORDERED, AMONG, PLACED, FILES, CODES = False, False, False, False, True
FILE_KINDS: tuple[str, ...] = ("values",)
FIGURES: dict[str, Scale] = {
    "rouge_l": "share",
    "exact_match": "share",
    "token_accuracy": "share",
    "ended": "share",
    **texts.FIGURES,
}
grouped, placed, further, parts, errors = alone.grouped, alone.placed, alone.further, alone.parts, alone.errors
named, spread, weights = unlabelled.named, unlabelled.spread, unlabelled.weights
probabilities, chosen = unlabelled.probabilities, unlabelled.chosen
from_file, improbable, file_labels = unlabelled.from_file, unlabelled.improbable, unlabelled.file_labels
# No text is known; the rows of targets hold it where the first token would stand.
_UNKNOWN = -1


def decoding(head: Head) -> Decoding:
    """How the texts of a head are written."""
    assert head.decoding is not None, "heads of this task have it"
    return head.decoding


def width(head: Head) -> int:
    return 1 + decoding(head).steps


def head(defining: Cells, target: Target) -> Head:
    """The head whose tokenizer is trained on the telling texts."""
    wanted = target.text
    given = sorted(cell[: tokenizer.read(wanted.length)] for cell in defining if cell is not None)
    trained = tokenizer.trained(wanted, given)
    fitted = tokenizer.compact(trained.to_str())
    how = Decoding(fitted=fitted, end=trained.get_vocab_size(), length=wanted.length, beams=wanted.beams)
    return Head(task=target.task, decoding=how)


def stand_in() -> Head:
    return head(["text"], Target(task="generation"))


def faults(cells: Mapping[str, Cells], target: Target) -> Iterator[CellFault]:
    defining = [cell for split in defining_splits(cells) for cell in cells[split]]
    fitted = decoding(head(defining, target)).fitted
    for split, of_split in cells.items():
        lengths = {}
        for row, cell in enumerate(of_split):
            if cell is not None:
                lengths[row] = len(tokenizer.encoded(fitted, None, _read(cell, target.text.length), "the text"))
        empty = [row for row, tokens in lengths.items() if not tokens]
        if empty:
            what = f"the text of {len(empty)} {split} samples is blank"
            yield CellFault("error", "blank-text", what, "write one, or empty the cell", split, empty[0])
        long = [row for row, tokens in lengths.items() if tokens > target.text.length]
        if long:
            most = max(lengths.values())
            what = f"{len(long)} of {len(lengths)} {split} texts are longer than {target.text.length} tokens, up to {most}, and are cut"
            todo = f"allow data.text.length: {most}, which every text that does not end costs; or shorten them"
            yield CellFault("warning", "long-text", what, todo, split, long[0])


def _read(cell: str, length: int) -> str:
    return cell[: tokenizer.read(length)]


def targets(cells: Cells, head: Head, target: Target) -> np.ndarray:
    """int64 [N, steps]: the tokens of each text and its end, 0 behind; -1 and zeros where it is not known."""
    how = decoding(head)
    found = np.zeros((len(cells), how.steps), np.int64)
    for row, cell in zip(found, cells):
        ids = [_UNKNOWN] if cell is None else [*tokenizer.encoded(how.fitted, how.length, cell, "the text"), how.end]
        row[: len(ids)] = ids
    return found


def known(targets: np.ndarray) -> np.ndarray:
    return np.asarray(targets[:, 0] != _UNKNOWN)


def hidden(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    targets = targets.copy()
    targets[rows] = 0
    targets[rows, 0] = _UNKNOWN
    return targets


def strata(cells: Cells, target: Target) -> list[str]:
    return ["" if cell is None else "text" for cell in cells]


def written(tokens: np.ndarray, head: Head) -> list[str]:
    """The texts of tokens, [N, steps]: of each what stands before its end."""
    how = decoding(head)
    return [_text(how.fitted, how.end, tuple(row)) for row in tokens.astype(np.int64).tolist()]


@lru_cache(maxsize=1 << 16)
def _text(fitted: str, end: int, row: tuple[int, ...]) -> str:
    """One text: resamplings ask for the same rows again and again."""
    whole = row[: row.index(end)] if end in row else row
    return str(tokenizer.opened(fitted, None).decode([token for token in whole if token > 0])).strip()


def ended(tokens: np.ndarray, head: Head) -> np.ndarray:
    """bool [N]: which texts, [N, steps], came to an end before the limit."""
    return np.asarray((tokens == decoding(head).end).any(axis=1))


def score(output: np.ndarray, targets: np.ndarray, head: Head) -> float:
    """ROUGE-L, the mean over texts."""
    pairs = list(zip(written(output[:, 1:], head), written(targets, head)))
    return float(np.mean([texts.common(*pair) for pair in pairs])) if pairs else float("nan")


def others(output: np.ndarray, targets: np.ndarray, head: Head) -> dict[str, float]:
    """``exact_match``: the share of texts that are just right; ``token_accuracy``: that of the wanted tokens that stand in
    their place; ``ended``: that of texts that came to an end before the limit; and those of ``texts``."""
    there, ours, theirs = targets != 0, written(output[:, 1:], head), written(targets, head)
    found = {
        "exact_match": float(np.mean([one == other for one, other in zip(ours, theirs)])),
        "token_accuracy": float((output[:, 1:] == targets)[there].mean()),
        "ended": float(ended(output[:, 1:], head).mean()),
    }
    return found | texts.figures(ours, theirs)


def majority(targets: np.ndarray, head: Head, rows: int) -> np.ndarray:
    """The most frequent text, the first of equals."""
    texts_of = [tuple(row) for row in targets[known(targets)].tolist()]
    commonest = max(Counter(texts_of).items(), key=lambda entry: entry[1])[0] if texts_of else ()
    row = np.zeros(width(head), np.float32)
    row[1 : 1 + len(commonest)] = commonest
    return np.tile(row, (rows, 1))


def same(expected: np.ndarray, actual: np.ndarray) -> float:
    """The share of tokens that are equal: where one text parts from another, what follows does too."""
    ours, theirs = expected[:, 1:], actual[:, 1:]
    return float((ours == theirs)[(ours != 0) | (theirs != 0)].mean()) if len(ours) else 1.0


def predictions(output: np.ndarray, head: Head) -> list[Prediction]:
    """The text of each row, its log probability, and whether it came to an end."""
    tokens = output[:, 1:]
    rows = zip(written(tokens, head), output[:, 0].tolist(), ended(tokens, head).tolist())
    return [Prediction(text=text, score=of_text, ended=whole) for text, of_text, whole in rows]


def card(cells: Cells, target: Target) -> TargetCard:
    return TargetCard()
