"""Holds the figures of every stage against the recipe's gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmedge import gate
from mmedge.pipeline.ran import Ran
from mmedge.report.schema import ControlRecord, GateRecord, HeadRecord, MissRecord, StageRecord

# The control that the gates on the gain are about.
_CONTROL = "no-distillation"


def missed(misses: Sequence[MissRecord]) -> list[tuple[GateRecord, int]]:
    """The gate and the exit code of each budget that a stage could not meet."""
    return [
        (GateRecord(name=miss.name, limit=miss.limit, value=miss.value, passed=False), miss.exit) for miss in misses
    ]


@dataclass(frozen=True)
class Judging:
    """A run with its records, the report's ``controls`` and the recipe's gates."""

    ran: Sequence[Ran]
    records: Sequence[StageRecord]
    controls: Sequence[ControlRecord]
    gates: Mapping[str, Mapping[str, float]]

    def judge(self, done: Ran, record: StageRecord) -> tuple[list[GateRecord], int]:
        """The record's gates, and the exit code of the first kind that failed.

        To the recipe's gates come the budgets that the stage itself judged, on validation, and could not meet.
        """
        latency = record.latency.record() if record.latency else {}
        intervals = {
            f"latency_{name.removesuffix('_ci95')}": (value[0], value[1])
            for name, value in latency.items()
            if name.endswith("_ci95")
        }
        verdict = gate.judge(self.figures(done, record), self.gates.get(done.stage, {}), intervals)
        misses = missed(done.result.misses if done.result else [])
        gates = [*(GateRecord(**judged.record()) for judged in verdict.gates), *(failed for failed, _ in misses)]
        return gates, min((code for code in (verdict.exit_code, *(code for _, code in misses)) if code), default=0)

    def figures(self, done: Ran, record: StageRecord) -> dict[str, float]:
        """The figures that gates may name. ``subset_drop`` is against the unpruned student (the teacher where there is none).

        Without a control the gain was not measured, and what was not measured does not pass.
        """
        if done.result is None:
            return {}
        teacher, unpruned = self._of_role("teacher"), self._of_role("student") or self._of_role("teacher")
        parent = next((r for r in self.records if record.parent and r.sha256 == record.parent), None)
        sizes = {"params": record.params, "macs": record.macs, "size_bytes": record.size_bytes}
        out: dict[str, float] = {name: value for name, value in sizes.items() if value is not None}
        out |= _ratios(record, teacher, parent)
        out |= _of_outputs(record, unpruned)
        for head, figures in (record.heads or {}).items():
            whole = unpruned.heads.get(head) if unpruned and unpruned.heads else None
            out |= {f"heads.{head}.{name}": value for name, value in _of_outputs(figures, whole).items()}
        for name, value in (record.latency.record() if record.latency else {}).items():
            if (name.startswith("ratio") and not name.endswith("_ci95")) or name.endswith("_ms"):
                out[f"latency_{name}"] = value
        over = next((control for control in self.controls if control.name == _CONTROL), None)
        if over and _CONTROL in done.result.controls:
            out |= {"gain": over.gain, "gain_ci95_low": over.gain_ci95[0]}
        return out

    def _of_role(self, role: str) -> StageRecord | None:
        found = zip(self.ran, self.records)
        return next((record for done, record in found if done.artifact and done.step.row.role == role), None)


def _ratios(record: StageRecord, teacher: StageRecord | None, parent: StageRecord | None) -> dict[str, float]:
    """What is left of the teacher and of the parent.

    A teacher's file of outputs may be of other samples, or of none, and has no parameters: then there is no ratio.
    """
    out = {}
    if teacher and teacher.quality and record.quality:
        theirs, ours = teacher.quality, record.quality
        if theirs.n == ours.n and theirs.value:
            out["quality_ratio_to_teacher"] = ours.value / theirs.value
    if teacher and teacher.params is not None and record.params is not None:
        out["params_ratio_to_teacher"] = record.params / teacher.params
    if parent and parent.macs is not None and record.macs is not None:
        out["macs_ratio_to_parent"] = record.macs / parent.macs
    if parent and parent.params is not None and record.params is not None:
        out["params_ratio_to_parent"] = record.params / parent.params
    return out


def _of_outputs(record: StageRecord | HeadRecord, unpruned: StageRecord | HeadRecord | None) -> dict[str, float]:
    """Quality, subsets, and what each subset lost against the unpruned student, of all heads or of one."""
    out = {"quality": record.quality.value} if record.quality else {}
    subsets = record.subsets or {}
    out |= {f"subset.{name}": value for name, value in subsets.items()}
    whole = (unpruned.subsets if unpruned else None) or {}
    return out | {f"subset_drop.{name}": whole[name] - value for name, value in subsets.items() if name in whole}
