"""Cells of a table as targets: what is found wrong with them, whatever the task."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmedge.frozen import Record

Cells = Sequence[str | None]
# Fewer training samples of a class than this are told of.
TINY = 5


@dataclass(frozen=True)
class CellFault:
    """One thing wrong with targets: in which split, and in which row of it (from 0), where it is of a single one."""

    severity: Literal["error", "warning"]
    kind: str
    what: str
    todo: str
    split: str
    row: int | None = None


class TargetCard(Record):
    """What ``check`` counts of a split's targets: rows by label, or where numbers lie (min, mean, max)."""

    classes: dict[str, int] | None = None
    target: dict[str, float] | None = None


def defining_splits(cells: Mapping[str, Cells]) -> tuple[str, ...]:
    """The splits whose targets say which classes there are, or in which range values lie: the training split alone.

    Where that has no label, since the student learns from its teacher alone, it is those that judge.
    """
    if any(cell is not None for cell in cells.get("train", ())):
        return ("train",)
    return tuple(split for split in ("validation", "test") if split in cells)


def label_faults(
    named: Mapping[str, Sequence[frozenset[str] | None]],
    defining: Sequence[str],
    *,
    needs: int,
    classes: Sequence[str] = (),
) -> Iterator[CellFault]:
    """What is wrong with labels.

    ``named``: {split: the labels of each row}; ``defining``: the splits that say which there are; ``needs``: the least
    number of different ones; ``classes``: all that there may be, where the recipe lists them.
    """
    counts = {split: Counter(name for names in rows for name in names or ()) for split, rows in named.items()}
    known = {name for split in defining for name in counts[split]}
    for split, rows in named.items():
        if split in defining and not classes:
            continue
        lacking = "not among 'classes'" if classes else "not in the training split"
        for label in sorted(counts[split].keys() - (set(classes) or known)):
            first = next(row for row, names in enumerate(rows) if names and label in names)
            what = f"the label {label!r} of {counts[split][label]} {split} samples is {lacking}"
            yield CellFault("error", "unseen-label", what, "correct the label or the split", split, first)
    if defining and len(known) < needs:
        what = f"one class only: {next(iter(known))!r}" if known else "no sample with any label"
        todo = "two different ones are the least that can be told apart: correct the split, or add rows"
        yield CellFault("error", "one-class", f"the {' and '.join(defining)} split has {what}", todo, defining[0])
    for split in counts:
        if split not in defining and len(counts[split]) == 1 and needs > 1:
            what = f"the {split} split has one class only: {next(iter(counts[split]))!r}"
            todo = "classification needs two: correct the split, or add rows"
            yield CellFault("warning", "one-class", what, todo, split)
    yield from _alike(named)
    for label, count in sorted(counts.get("train", Counter()).items()):
        if count < TINY:
            what = f"the class {label!r} has {count} training sample{'s' if count > 1 else ''}"
            todo = "add samples, join classes, or set train.class_weights: balanced"
            yield CellFault("warning", "tiny-class", what, todo, "train")
        for split in ("validation", "test"):
            if counts.get(split) and label not in counts[split]:
                what = f"the class {label!r} has no {split} sample: nothing tells how well it is known"
                todo = "add samples, or change data.ratios or data.split"
                yield CellFault("warning", "empty-class", what, todo, split)
            elif counts.get(split) and counts[split][label] == 1:
                what = f"the class {label!r} has one {split} sample, which alone decides how well it seems known"
                todo = "add samples, or change data.ratios, data.split or the seed"
                yield CellFault("warning", "single-sample", what, todo, split)


def _alike(named: Mapping[str, Sequence[frozenset[str] | None]]) -> Iterator[CellFault]:
    """Labels that a reader takes for one: of other blanks, case, or Unicode form."""
    first: dict[str, tuple[str, int]] = {}
    for split, rows in named.items():
        for row, names in enumerate(rows):
            for name in names or ():
                first.setdefault(name, (split, row))
    spellings: dict[str, str] = {}
    for label in sorted(first):
        other = spellings.setdefault(unicodedata.normalize("NFKC", " ".join(label.casefold().split())), label)
        if other != label:
            split, row = first[label]
            what = (
                f"the labels {other!r} and {label!r} differ in blanks, case or Unicode form only, and are two classes"
            )
            yield CellFault("warning", "alike-labels", what, "spell them alike", split, row)
