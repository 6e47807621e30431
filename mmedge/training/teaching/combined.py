"""Several teachers at once: one answer made of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmedge.artifact import hash_json
from mmedge.data.answers import FLOOR
from mmedge.errors import UsageError
from mmedge.training.teaching.sources import Answer, Source


class Combined:
    """The weighted mean of several teachers' probabilities (regression: of their values), and the first one's hints.

    ``outputs``: the student's; ``task``: the data's.

    Probabilities and not logits are averaged (Hinton, Vinyals & Dean 2015, section 5 take either): the logits of
    teachers of different origin have different scales, and a file of outputs may hold probabilities only; with Hinton's
    loss at temperature 1 it is the same as a loss to each teacher. ``combine``:

    ``average``: weights are those given. ``confidence``: they are multiplied, sample by sample, by exp(-entropy), the
    inverse of the number of classes that a teacher hesitates between, after Kwon et al. 2020, "Adaptive knowledge
    distillation based on entropy"; labels, which CA-MKD (Zhang, Chen & Wang 2022) needs for it, are not looked at, since
    most samples may have none.

    A teacher without an answer to a sample has no say in it. One that knows only some of the classes splits the
    probability that the others, who know all, give to these classes (a specialist in Hinton's sense). Of several labels
    a sample, each is the mean over those who know it, and confidence is the label's own.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], *, combine: str, outputs: int, task: str
    ) -> None:
        self._sources, self._weights = sources, np.asarray(weights, np.float64)
        self._confidence, self._outputs, self._task = combine == "confidence", outputs, task
        self.key = hash_json([[source.key for source in sources], list(weights), combine])
        self.fixed = all(source.fixed for source in sources)
        self.notes = tuple(f"teacher {n}: {note}" for n, source in enumerate(sources, 1) for note in source.notes)
        known = [np.arange(outputs) if source.columns is None else source.columns for source in sources]
        union = np.unique(np.concatenate(known))
        self._known, self._whole = known, [len(columns) == len(union) for columns in known]
        if task == "classification" and not any(self._whole):
            raise UsageError(
                "no teacher knows all classes that the others know, so nothing says how likely the classes of one are against those of another",
                where="distill.teachers",
                todo="name one that knows them all",
            )
        self.columns: np.ndarray | None = None if len(union) == outputs else union

    def answer(self, index: np.ndarray, view: int) -> Answer:
        answers = [source.answer(index, view) for source in self._sources]
        taught = np.stack([answer.taught for answer in answers])
        anybody = np.asarray(taught.any(axis=0))
        if self._task == "regression":
            weights = self._weights[:, None] * taught
            values = np.stack([answer.logits[:, 0] for answer in answers])
            return Answer(_mean(values, weights)[:, None].astype(np.float32), anybody, answers[0].hints)
        if self._task == "multilabel":
            return self._of_labels(answers, taught, anybody)
        p = np.zeros((len(answers), len(index), self._outputs))
        for number, (answer, columns) in enumerate(zip(answers, self._known)):
            p[number][:, columns] = torch.from_numpy(answer.logits).double().softmax(dim=1).numpy()
        general = np.array(self._whole)
        weights = self._weighed(p[general], taught[general], self._weights[general])
        whole, somebody = _mean(p[general], weights), taught[general].any(axis=0)
        for number, columns in enumerate(self._known):
            if general[number]:
                continue
            share = whole[:, columns].sum(axis=1, keepdims=True)
            p[number] = np.where(np.isin(np.arange(self._outputs), columns), p[number] * share, whole)
            taught[number] &= somebody
        mean = _mean(p, self._weighed(p, taught, self._weights))
        if self.columns is not None:
            mean = mean[:, self.columns]
        logits = np.log(np.clip(mean, FLOOR, 1.0)).astype(np.float32)
        return Answer(np.where(somebody[:, None], logits, np.float32(0)), somebody, answers[0].hints)

    def _of_labels(self, answers: Sequence[Answer], taught: np.ndarray, anybody: np.ndarray) -> Answer:
        """Several labels a sample: each label's probability is the mean over the teachers that know it."""
        columns = np.arange(self._outputs) if self.columns is None else self.columns
        p, counted = np.zeros((2, len(answers), len(anybody), len(columns)))
        for number, (answer, known) in enumerate(zip(answers, self._known)):
            places = np.searchsorted(columns, known)
            given = torch.from_numpy(answer.logits).double().sigmoid().numpy()
            p[number][:, places] = given
            weight = self._weights[number] * taught[number][:, None].astype(np.float64)
            if self._confidence:
                safe = np.clip(given, 1e-12, 1 - 1e-12)
                weight = weight * np.exp(safe * np.log(safe) + (1 - safe) * np.log(1 - safe))
            counted[number][:, places] = weight
        total = counted.sum(axis=0)
        # A label that nobody who answered knows is left at even odds, and the sample untaught.
        known_all = (total > 0).all(axis=1)
        mean = np.where(total > 0, (p * counted).sum(axis=0) / np.maximum(total, 1e-300), 0.5)
        mean = np.clip(mean, FLOOR, 1 - FLOOR)
        logits = np.log(mean) - np.log1p(-mean)
        taught_here = anybody & known_all
        return Answer(np.where(taught_here[:, None], logits, 0).astype(np.float32), taught_here, answers[0].hints)

    def _weighed(self, p: np.ndarray, taught: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """float [teachers, batch]: how much each one's ``p`` [teachers, batch, classes] counts; 0 where it has no answer."""
        counted = weights[:, None] * taught
        if self._confidence:
            entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=2)
            counted = counted * np.exp(-entropy)
        return counted


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the first axis of [teachers, batch, ...] by weights [teachers, batch]; 0 where nobody has a weight."""
    weights = weights / np.maximum(weights.sum(axis=0), 1e-300)
    return (values * weights.reshape(weights.shape + (1,) * (values.ndim - 2))).sum(axis=0)
