"""What the outputs on the test split say of a figure, with bounds: of one stage alone, and of one against another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmedge import gate, tasks
from mmedge.artifact import contract_of
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.gate import Estimate
from mmedge.measure import classwise
from mmedge.measure.baseline import effort_of, in_words, majority_outputs
from mmedge.measure.comparing import compared
from mmedge.measure.quality import (
    Outputs,
    Predict,
    bounds,
    figure_of,
    of_head,
    placed_outputs,
    quality,
    rows_of,
    score,
)
from mmedge.pipeline.measuring import once
from mmedge.pipeline.predicting import Predictions, is_outputs
from mmedge.pipeline.ran import Ran
from mmedge.pipeline.reviewing import shipped_of
from mmedge.report.schema import BaselineRecord

MAJORITY, BASELINE = "majority", "baseline"


@dataclass(frozen=True)
class Side:
    """A stage's samples of the test split in the data's classes, and ``predict(present: bool [N, M])``: {head: float [N, W]}."""

    contract: Contract
    samples: Samples
    predict: Predict

    def masked_to(self, subset: str | None) -> tuple[Samples, Outputs]:
        """The samples as they are, or with a subset of the modalities (those that lack a part of it unlabelled), and the outputs."""
        samples = self.samples.masked_to(subset.split("+")) if subset else self.samples
        return samples, self.predict(samples.present)


@dataclass
class Evidence:
    """Sides of a run's stages, each computed once. ``telling``: the split that says what is most frequent.

    ``linear(samples)``: the linear model's outputs of the test samples; None where there is none.
    """

    side_of: Callable[[Ran], Side | None]
    telling: Samples
    linear: Callable[[Contract], Outputs] | None
    _sides: dict[str, Side | None] = field(default_factory=dict)

    def side(self, done: Ran) -> Side | None:
        """Of a stage; None where it has no outputs on test."""
        if done.stage not in self._sides:
            self._sides[done.stage] = self.side_of(done)
        return self._sides[done.stage]

    def alone(self, done: Ran, name: str, tail: float) -> Estimate | None:
        """A figure of one stage: its quality, or what else its outputs alone say; None where there is none."""
        ours, head = self.side(done), gate.head_of(name)[0]
        subset = gate.subset_of(name)
        if ours is None or (subset and not set(subset.split("+")) <= set(ours.samples.inputs)):
            return None
        contract = of_head(ours.contract, head) if head else ours.contract
        samples, outputs = ours.masked_to(subset)
        known = samples.known_rows(contract.heads)
        if not len(known):
            return None
        outputs, targets, groups = rows_of(outputs, known), rows_of(samples.targets, known), samples.groups[known]
        own = gate.other_of(name) or gate.family(name)
        if own in gate.OF_LABELS:
            ((only, described),) = contract.heads.items()
            figure = getattr(classwise, own)
            found: Estimate = figure(described, outputs[only], targets[only], groups, tail)
            return found
        if other := gate.other_of(name):
            return figure_of(contract, outputs, targets, groups, other, tail)
        within = bounds(contract, outputs, targets, groups, tail)
        return Estimate(score(contract, outputs, targets), within.low, within.high, len(known), within.method)

    def more(
        self, done: Ran, other: Ran | str, head: str | None, subset: str | None, tail: float
    ) -> tuple[Estimate, float] | None:
        """(what ``done`` has more than ``other`` on the same samples, the other's figure); None where one has none.

        ``other``: a stage, or ``majority`` or ``baseline``.
        """
        ours = self.side(done)
        if ours is None:
            return None
        contract = of_head(ours.contract, head) if head else ours.contract
        if subset and not set(subset.split("+")) <= set(ours.samples.inputs):
            return None
        samples, outputs = ours.masked_to(subset)
        if isinstance(other, str):
            given = self._of_nobody(other, contract, samples)
            if given is None:
                return None
            rows, theirs = np.arange(len(samples)), given
        else:
            side = self.side(other)
            if side is None or (subset and not set(subset.split("+")) <= set(side.samples.inputs)):
                return None
            their_samples, all_theirs = side.masked_to(subset)
            place = {sample: row for row, sample in enumerate(their_samples.ids)}
            labelled = their_samples.labelled
            rows = np.array(
                [r for r, name in enumerate(samples.ids) if name in place and labelled[place[name]]], np.int64
            )
            theirs = rows_of(all_theirs, np.array([place[samples.ids[row]] for row in rows], np.int64))
        taken = samples.taken(rows)
        known = taken.known_rows(contract.heads)
        if not len(known) or any(each not in theirs for each in contract.heads):
            return None
        found = compared(contract, rows_of(outputs, rows), theirs, taken, tail=tail)
        return found, score(contract, rows_of(theirs, known), rows_of(taken.targets, known))

    def _of_nobody(self, other: str, contract: Contract, samples: Samples) -> Outputs | None:
        if other == MAJORITY:
            given = majority_outputs(contract, self.telling, len(samples))
            return placed_outputs(contract, given, given, samples.targets)
        if self.linear is None:
            return None
        given = self.linear(contract)
        return placed_outputs(contract, given, given, samples.targets)


def evidence_of(predictions: Predictions) -> Evidence:
    """The evidence of a run's artifacts, whose graphs are run on the test split where they were not yet."""
    dataset = predictions.context.dataset
    telling = dataset.train if dataset.train.labelled.any() else dataset.validation

    def linear(contract: Contract) -> Outputs:
        return predictions.linear(tuple(contract.modalities))[0]

    return Evidence(lambda done: _side(done, predictions), telling, linear if _has_baseline(dataset.train) else None)


def _has_baseline(train: Samples) -> bool:
    """Whether a linear model can learn the task: from labels, and row by row."""
    return bool(train.labelled.any()) and all(map(tasks.row_by_row, train.heads.values()))


def _side(done: Ran, predictions: Predictions) -> Side | None:
    if done.artifact is None:
        return None
    contract, samples, predict = predictions.of(done, done.artifact)
    side = Side(contract.at_temperatures(predictions.temperatures(done, done.artifact)), samples, predict)
    return side if side.samples.labelled.any() else None


def baseline_of(ran: list[Ran], predictions: Predictions) -> BaselineRecord | None:
    """The linear model of what ships: its quality and what it was given; None where training has no label."""
    context, done = predictions.context, shipped_of(ran)
    if done is None or done.artifact is None or not _has_baseline(context.dataset.train):
        return None
    names = tuple(context.dataset.contract.modalities)
    if done.result is not None and not is_outputs(done.artifact):
        names = tuple(name for name in names if name in contract_of(done.artifact).modalities)

    def compute() -> Mapping[str, object]:
        outputs, seconds = predictions.linear(names)
        contract = context.dataset.contract.only(names)
        train, test = (split.only(names) for split in (context.dataset.train, context.dataset.test))
        record = quality(contract, placed_outputs(contract, outputs, outputs, test.targets), test)
        rows, inputs = effort_of(contract, train).rows, in_words(contract)
        return BaselineRecord(quality=record, seconds=round(seconds, 2), inputs=inputs, rows=rows).record()

    key = [context.dataset.sha256, list(names), context.recipe.seed]
    return BaselineRecord.model_validate(once("baseline", key, context, "training the linear baseline", compute))
