"""Holds the figures of every stage against the recipe's gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from mmedge import gate
from mmedge.gate import Estimate
from mmedge.measure.comparing import SAME
from mmedge.pipeline.costs import demanded
from mmedge.pipeline.evidence import BASELINE, MAJORITY, Evidence, evidence_of
from mmedge.pipeline.measuring import once
from mmedge.pipeline.predicting import Predictions
from mmedge.pipeline.ran import Ran
from mmedge.recipe.gates import Gates, Limits
from mmedge.report.schema import ControlRecord, GateRecord, MissRecord, RunVerdict, StageRecord
from mmedge.training.context import Context

# The control that the gates on the gain are about.
_CONTROL = "no-distillation"
_TEST_LOSS = "quality_drop_to_parent"
_SEEDS, _ONE_SEED = "Student's t over seeds and samples", "one seed: three would tell"


def missed(misses: Sequence[MissRecord]) -> list[tuple[GateRecord, int]]:
    """The gate and the exit code of each budget that a stage could not meet."""
    return [
        (GateRecord(name=miss.name, limit=miss.limit, value=miss.value, passed=False, outcome="fail"), miss.exit)
        for miss in misses
    ]


def verdict_of(gates: Sequence[GateRecord]) -> RunVerdict:
    """Of all gates of a run: what failed weighs most, then what cannot be told."""
    outcomes = {gate.outcome or ("pass" if gate.passed else "fail") for gate in gates}
    if not outcomes:
        return "not judged"
    return "fail" if "fail" in outcomes else "cannot tell" if "cannot tell" in outcomes else "pass"


@dataclass(frozen=True)
class Judging:
    """A run with its records, the report's ``controls`` and what it is judged by.

    ``limits``: {stage: {figure: limit}}; ``own``: whether the recipe's author set them. A limit that nobody set, and that the
    data has no figure for, is left out. ``remember(done, others, names, compute)`` keeps what was computed.
    """

    ran: Sequence[Ran]
    records: Sequence[StageRecord]
    controls: Sequence[ControlRecord]
    limits: Limits
    evidence: Evidence
    how: Gates = field(default_factory=Gates)
    own: bool = True
    context: Context | None = None

    @classmethod
    def of(
        cls,
        ran: Sequence[Ran],
        records: Sequence[StageRecord],
        controls: Sequence[ControlRecord],
        predictions: Predictions,
    ) -> Judging:
        """Of a run."""
        context, recipe = predictions.context, predictions.context.recipe
        own = bool(recipe.own_limits)
        return cls(ran, records, controls, recipe.limits, evidence_of(predictions), recipe.judging, own, context)

    def judge(self, done: Ran, record: StageRecord) -> tuple[list[GateRecord], int]:
        """The record's gates, and the exit code of the first kind that failed.

        To the recipe's gates come the budgets that the stage itself judged, on validation, and could not meet.
        """
        limits = self.limits.get(done.stage, {})
        if done.artifact is None and (not self.own or set(map(gate.family, limits)) == {gate.GUARD}):
            limits = {}  # an optional engine that is not built here is not judged by what nobody asked of it
        figures = self.figures(done, record, limits)
        if not self.own:
            limits = {name: limit for name, limit in limits.items() if name in figures}
        verdict = gate.judge(figures, limits, self.how.policy, self.how.confidence)
        misses = missed(done.result.misses if done.result else [])
        gates = [
            *(GateRecord.model_validate(judged.record()) for judged in verdict.gates),
            *(failed for failed, _ in misses),
        ]
        return gates, min((code for code in (verdict.exit_code, *(code for _, code in misses)) if code), default=0)

    def figures(self, done: Ran, record: StageRecord, names: Mapping[str, Any]) -> dict[str, Estimate]:
        """The figures of ``names`` that were measured; what was not does not pass."""
        if done.result is None:
            return {}
        costs = self._costs(record) | self._gains(done)
        if self.context is not None and done.artifact is not None:
            costs |= demanded(done.artifact, names, self.context)
        found = {name: costs[name] for name in names if name in costs}
        of_outputs = sorted(
            name for name in names if name not in found and gate.accuracy(name) and not gate.of_gain(name)
        )
        return found | (self._of_outputs(done, record, of_outputs) if of_outputs else {})

    def with_losses(self, done: Ran, record: StageRecord) -> StageRecord:
        """The record of a network that was made smaller, with a note of what that lost on the test split."""
        parent = self._other("parent", record)
        if done.step.row.role != "smaller" or done.artifact is None or parent is None or parent.artifact is None:
            return record
        found = self._of_outputs(done, record, [_TEST_LOSS], confidence=0.975).get(_TEST_LOSS)
        if found is None:
            return record
        loss_note = (
            "its outputs on the test split are its parent's"
            if found.method == SAME
            else f"on the test split it loses {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] against its parent"
            f" (95 %, {found.method})"
        )
        return record.model_copy(update={"notes": [*record.notes, loss_note]})

    def _of_outputs(
        self, done: Ran, record: StageRecord, names: list[str], confidence: float | None = None
    ) -> dict[str, Estimate]:
        sure = confidence or self.how.confidence
        others = {kind: self._other(kind, record) for kind in ("teacher", "parent", "student")}

        def compute() -> dict[str, Any]:
            found = {name: self._estimate(done, others, name, sure) for name in names}
            return {name: asdict(each) for name, each in found.items() if each is not None}

        if self.context is None or done.artifact is None:
            given = compute()
        else:
            seen = {kind: other.artifact.sha256 for kind, other in others.items() if other and other.artifact}
            key = [done.artifact.sha256, seen, self.context.dataset.sha256, names, sure]
            given = once("judged", key, self.context, f"judging {done.stage}", compute)
        return {name: Estimate(**each) for name, each in given.items()}

    def _estimate(self, done: Ran, others: Mapping[str, Ran | None], name: str, sure: float) -> Estimate | None:
        """One figure of outputs with its bounds. ``subset_drop`` is against the unpruned student (the teacher where there is none)."""
        family, subset, (head, _) = gate.family(name), gate.subset_of(name), gate.head_of(name)
        tail = 1 - (gate.GUARD_CONFIDENCE if family == gate.GUARD else sure)
        more = partial(self.evidence.more, done, head=head, subset=subset, tail=tail)
        if family in ("above_majority", "above_baseline"):
            found = more(MAJORITY if family == "above_majority" else BASELINE)
            return found[0] if found else None
        kind, _, against = family.partition("_to_")
        if kind not in ("quality_drop", "quality_ratio", "subset_drop", "subset_ratio"):
            return self.evidence.alone(done, name, tail)
        other = others[against or "student"]
        found = more(other) if other else None
        if found is None:
            return None
        difference, theirs = found
        return _lost(difference) if kind.endswith("drop") else _left(difference, theirs)

    def _other(self, kind: str, record: StageRecord) -> Ran | None:
        """What a stage is held against: the teacher, its parent, or the student as it was before it was made smaller."""
        if kind == "parent":
            pairs = zip(self.ran, self.records)
            return next((ran for ran, other in pairs if record.parent and other.sha256 == record.parent), None)
        found = self._of_role(kind) or (self._of_role("teacher") if kind == "student" else None)
        return found[0] if found else None

    def _costs(self, record: StageRecord) -> dict[str, Estimate]:
        """Sizes and latencies. A teacher's file of outputs has no parameters: then there is no ratio."""
        of_teacher = self._of_role("teacher")
        teacher = of_teacher[1] if of_teacher else None
        parent = next((r for r in self.records if record.parent and r.sha256 == record.parent), None)
        sizes = {"params": record.params, "macs": record.macs, "size_bytes": record.size_bytes}
        out = {name: Estimate.exact(value) for name, value in sizes.items() if value is not None}
        if teacher and teacher.params is not None and record.params is not None:
            out["params_ratio_to_teacher"] = Estimate.exact(record.params / teacher.params)
        if parent and parent.macs is not None and record.macs is not None:
            out["macs_ratio_to_parent"] = Estimate.exact(record.macs / parent.macs)
        if parent and parent.params is not None and record.params is not None:
            out["params_ratio_to_parent"] = Estimate.exact(record.params / parent.params)
        latency = record.latency.record() if record.latency else {}
        for name, value in latency.items():
            if ("ratio_to" in name and not name.endswith("_ci95")) or name.endswith("_ms"):
                ends = latency.get(f"{name}_ci95")
                out[f"latency_{name}"] = (
                    Estimate(value, ends[0], ends[1], None, "t over sittings") if ends else Estimate.exact(value)
                )
        return out

    def _gains(self, done: Ran) -> dict[str, Estimate]:
        """What distillation gained. Without a control it was not measured; one seed proves nothing of others."""
        over = next((control for control in self.controls if control.name == _CONTROL), None)
        if not over or not done.result or _CONTROL not in done.result.controls:
            return {}
        low, high = over.gain_ci95
        if over.seeds > 1:
            return {"gain": Estimate(over.gain, low, high, None, _SEEDS), "gain_ci95_low": Estimate.exact(low)}
        one = partial(Estimate, low=-1.0, high=1.0, method=_ONE_SEED)  # it proves nothing, either way
        return {"gain": one(over.gain), "gain_ci95_low": one(low)}

    def _of_role(self, role: str) -> tuple[Ran, StageRecord] | None:
        found = zip(self.ran, self.records)
        return next(((done, record) for done, record in found if done.artifact and done.step.row.role == role), None)


def _lost(more: Estimate) -> Estimate:
    """What is less of it."""
    return Estimate(-more.value, -more.high, -more.low, more.n, more.method)


def _left(more: Estimate, theirs: float) -> Estimate | None:
    """The share that is left of the other's figure; of a figure below zero, 1 less what was lost of its size."""
    if not theirs:
        return None
    value, low, high = (1 + part / abs(theirs) for part in (more.value, more.low, more.high))
    return Estimate(value, low, high, more.n, more.method)
