"""Figures of texts beside those that they should be: n-grams, the longest common part, and errors by word and character.

All are of a corpus, from counts that each text has by itself, so that resamplings of the rows cost sums alone. BLEU
(Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's, the error rates jiwer's; where these are not installed
their figures are absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from mmedge.tasks.scale import Scale

FIGURES: dict[str, Scale] = {"bleu": "share", "chrf": "share", "wer": "error", "cer": "error"}
_REMEMBERED = 1 << 16


def figures(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """``bleu`` and ``chrf``, 0 to 1, and ``wer`` and ``cer``, errors a wanted word or character, of which less is better."""
    if not len(written):
        return {}
    pairs = list(zip(written, wanted))
    found: dict[str, float] = {}
    for name in ("bleu", "chrf"):
        metric = _sacrebleu(name)
        if metric is not None:
            counts = np.sum([_counts(name, *pair) for pair in pairs], axis=0)
            found[name] = float(metric._aggregate_and_compute([counts.tolist()]).score) / 100
    for name in ("wer", "cer"):
        if _jiwer() is not None:
            errors, length = np.sum([_errors(name, *pair) for pair in pairs], axis=0)
            found |= {name: float(errors / length)} if length else {}
    return found


@cache
def _sacrebleu(name: str) -> Any:
    """The metric; None where sacrebleu is not installed."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        return None
    # A text of two words has no four that follow each other: it is judged by what it can have.
    return BLEU(effective_order=True) if name == "bleu" else CHRF()


@lru_cache(maxsize=_REMEMBERED)
def _counts(name: str, written: str, wanted: str) -> tuple[int, ...]:
    """What a corpus's figure is the sum of. sacrebleu's own resampling takes them by the same method, which is not public."""
    (counts,) = _sacrebleu(name)._extract_corpus_statistics([written], [[wanted]])
    return tuple(counts)


@cache
def _jiwer() -> Any:
    """The module; None where it is not installed."""
    try:
        import jiwer
    except ImportError:
        return None
    return jiwer


@lru_cache(maxsize=_REMEMBERED)
def _errors(name: str, written: str, wanted: str) -> tuple[int, int]:
    """(words or characters that are wrong, missing or too many, those that are wanted)."""
    jiwer = _jiwer()
    found = (jiwer.process_words if name == "wer" else jiwer.process_characters)(wanted, written)
    wrong = found.substitutions + found.deletions
    return wrong + found.insertions, wrong + found.hits


@lru_cache(maxsize=_REMEMBERED)
def common(written: str, wanted: str) -> float:
    """ROUGE-L of two texts: F1 of the longest sequence of words that both have (Lin 2004)."""
    ours, theirs = written.split(), wanted.split()
    row = [0] * (len(theirs) + 1)
    for word in ours:
        above = row
        row = [0]
        for place, other in enumerate(theirs):
            row.append(above[place] + 1 if word == other else max(row[-1], above[place + 1]))
    total = len(ours) + len(theirs)
    return 2 * row[-1] / total if total else 1.0
