"""A teacher whose classes are not the data's: which of its classes means which of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmedge import tasks
from mmedge.contract import Contract
from mmedge.errors import UsageError, did_you_mean
from mmedge.tasks import Head

# The logit of a class that the teacher does not know, where one must stand: a probability of 1e-13.
UNKNOWN = -30.0


@dataclass(frozen=True)
class ClassMap:
    """``to``: for each of the teacher's classes, the index of the data's class that it means; -1 where it means none.

    ``head``: the one whose classes they are. ``exclusive``: a sample has one class; where it may have several labels,
    each logit is one of its own.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    to: tuple[int, ...]
    exclusive: bool = True
    head: str = "logits"

    @property
    def columns(self) -> np.ndarray:
        """int64: the data's classes that the teacher knows, ascending."""
        return np.unique([index for index in self.to if index >= 0]).astype(np.int64)

    def known(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(log probabilities float32 [n, len(columns)], kept float [n]) of a teacher's logits [n, theirs].

        Classes that mean the same add up their probabilities; those that mean none are dropped and the rest adds up to
        1 again. ``kept``: the probability that was not dropped. Labels that do not exclude each other keep their
        logits, the largest of those that mean the same, and nothing counts as dropped.
        """
        if not self.exclusive:
            largest = [logits[:, np.equal(self.to, column)].max(axis=1) for column in self.columns]
            return np.stack(largest, axis=1).astype(np.float32), np.ones(len(logits))
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        p = np.exp(shifted)
        p /= p.sum(axis=1, keepdims=True)
        sums = np.stack([p[:, np.equal(self.to, column)].sum(axis=1) for column in self.columns], axis=1)
        kept = sums.sum(axis=1)
        safe = np.maximum(sums, 1e-12)
        return np.log(safe / safe.sum(axis=1, keepdims=True)).astype(np.float32), kept

    def spread(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{head: float32 [n, ours]} to be judged by: the known classes' log probabilities, the others far below."""
        return {self.head: spread_over(self.known(outputs[self.head])[0], self.columns, len(self.ours))}

    def note(self) -> str:
        """A note for the report."""
        dropped = [name for name, index in zip(self.theirs, self.to) if index < 0]
        unknown = [name for index, name in enumerate(self.ours) if index not in self.to]
        parts = [
            f"{len(self.theirs) - len(dropped)} of the teacher's {len(self.theirs)} classes mean {len(self.columns)} of the data's {len(self.ours)}"
        ]
        if dropped:
            then = " (a sample that is mostly one of them is not taught by the teacher)" if self.exclusive else ""
            parts.append(f"dropped: {_some(dropped)}{then}")
        if unknown:
            parts.append(f"left to the labels: {_some(unknown)}")
        return "; ".join(parts)


def spread_over(logits: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    """float32 [n, width]: logits [n, len(columns)] in their columns, all others far below."""
    out = np.full((len(logits), width), UNKNOWN, np.float32)
    out[:, columns] = logits
    return out


def class_map(theirs: Contract, ours: Contract, mapping: Mapping[str, str | None], where: str) -> ClassMap | None:
    """How a teacher's classes mean the data's; None where they are the same in the same order.

    ``mapping``: {their class: our class, or None to drop it}; their classes that it leaves out mean ours of the same
    name. Without a mapping both must have the same names, in any order. ``where`` is the recipe's key. Raises
    UsageError that names what does not fit: tasks, heads or classes.
    """
    if len(ours.heads) > 1 or len(theirs.heads) > 1:
        _check_heads(theirs, ours, mapping, where)
        return None
    ((their_name, their_head),), ((name, head),) = theirs.heads.items(), ours.heads.items()
    _check_task(their_head, head, where)
    if their_name != name:
        raise UsageError(
            f"the teacher's head is called {their_name!r}, the data's {name!r}",
            where=where,
            todo=f"call it so: data.targets: {{{their_name}: …}}",
        )
    task = tasks.of(head)
    if task.LABELS and not (task.EXCLUSIVE or task.SEVERAL) and (mapping or their_head.labels != head.labels):
        raise UsageError(
            f"a teacher of {', '.join(their_head.labels)} cannot teach {', '.join(head.labels)}: grades stand in one order, which both must share",
            where=where,
        )
    if not mapping and their_head.labels == head.labels:
        return None
    return _mapped(their_head.labels, head.labels, mapping, where, name, exclusive=task.EXCLUSIVE)


def _check_heads(theirs: Contract, ours: Contract, mapping: Mapping[str, str | None], where: str) -> None:
    """Raise UsageError where a teacher does not have the heads of a model of several, each with its classes."""
    if mapping:
        raise UsageError("'classes' are those of a model with one head, and this one has several", where=where)
    for name, head in ours.heads.items():
        if name not in theirs.heads:
            raise UsageError(
                f"the teacher has no head {name!r}{did_you_mean(name, theirs.heads)}; it has {', '.join(theirs.heads)}",
                where=where,
            )
        _check_task(theirs.heads[name], head, where)
        if theirs.heads[name].labels != head.labels:
            raise UsageError(f"the teacher's classes of the head {name!r} are not the data's", where=where)


def _check_task(theirs: Head, ours: Head, where: str) -> None:
    if theirs.task != ours.task:
        raise UsageError(f"a teacher of a {theirs.task} cannot teach a {ours.task}", where=where)


def _mapped(
    theirs: Sequence[str],
    ours: Sequence[str],
    mapping: Mapping[str, str | None],
    where: str,
    head: str,
    *,
    exclusive: bool,
) -> ClassMap:
    index = {label: number for number, label in enumerate(ours)}
    faults = [
        f"the teacher has no class {name!r}{did_you_mean(name, theirs)}" for name in mapping if name not in theirs
    ]
    faults += [
        f"the data has no class {label!r}{did_you_mean(label, ours)}"
        for label in mapping.values()
        if label is not None and label not in index
    ]
    lost = [name for name in theirs if name not in mapping and name not in index]
    missing = [label for label in ours if label not in theirs] if not mapping else []
    if lost:
        guesses = [f"{name!r}{did_you_mean(name, ours)}" for name in lost]
        faults.append(f"the data does not have the teacher's {_some(guesses)}")
    if missing:
        faults.append(f"the teacher does not have the data's {_some(list(map(repr, missing)))}")
    if faults:
        example = ", ".join(f"{name}: …" for name in (lost or list(theirs))[:2])
        raise UsageError(
            "the teacher's classes are not the data's: " + "; ".join(faults[:4]),
            where=where,
            todo=f"say which of the data's classes each means, null for none: classes: {{{example}}}",
        )
    made = ClassMap(
        tuple(theirs),
        tuple(ours),
        tuple(-1 if (to := mapping.get(name, name)) is None else index[to] for name in theirs),
        exclusive,
        head,
    )
    if len(made.columns) < (2 if made.exclusive else 1):
        raise UsageError("fewer than two of the data's classes are left to teach", where=where)
    return made


# Labelled samples that an order of classes is judged by.
JUDGED = 512


def check_order(output: np.ndarray, targets: np.ndarray, labels: Sequence[str], where: str) -> None:
    """Raise UsageError where the labels say that a teacher's outputs are the data's classes in another order.

    ``output``: float [n, classes] of labelled samples; ``targets``: int [n], indices of ``labels``, the order that is
    taken for granted. It is refused where the best other one (the assignment problem; Kuhn 1955) makes most outputs
    right, and far more of them.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((len(labels), len(labels)), np.int64)  # [output of the teacher, class of the sample]
    np.add.at(counts, (output.argmax(axis=1), targets), 1)
    _, best = linear_sum_assignment(counts, maximize=True)
    right, other = np.trace(counts) / len(targets), counts[np.arange(len(labels)), best].sum() / len(targets)
    if other < 0.5 or other - right < 0.3:
        return
    order = ", ".join(f"{labels[index]}: {labels[index]}" for index in best[:24]) + (", …" if len(best) > 24 else "")
    raise UsageError(
        f"the teacher's outputs seem to be in another order than the data's classes ({_some(labels)}): so it is right in {right:.0%} of {len(targets)} labelled training samples, in the best other order in {other:.0%}",
        where=where,
        todo=f"list the classes in the teacher's order; by those samples it is classes: {{{order}}}",
    )


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
