"""Holds the figures of every stage against the recipe's gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmedge import gate
from mmedge.pipeline.ran import Ran
from mmedge.report.schema import MissRecord

# The control that the gates on the gain are about.
_CONTROL = "no-distillation"


def missed(misses: Sequence[MissRecord]) -> list[tuple[dict[str, Any], int]]:
    """The gate and the exit code of each budget that a stage could not meet."""
    return [
        ({"name": miss.name, "limit": miss.limit, "value": miss.value, "passed": False}, miss.exit) for miss in misses
    ]


@dataclass(frozen=True)
class Judging:
    """A run with its records, the report's ``controls`` and the recipe's gates."""

    ran: list[Ran]
    records: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    gates: Mapping[str, Mapping[str, float]]

    def judge(self, done: Ran, record: dict[str, Any]) -> int:
        """Fill the record's gates; the exit code of the first kind that failed.

        To the recipe's gates come the budgets that the stage itself judged, on validation, and could not meet.
        """
        latency = record.get("latency", {})
        intervals = {
            f"latency_{name.removesuffix('_ci95')}": (value[0], value[1])
            for name, value in latency.items()
            if name.endswith("_ci95")
        }
        verdict = gate.judge(self.figures(done, record), self.gates.get(done.stage, {}), intervals)
        misses = missed(done.result.misses if done.result else [])
        record["gates"] = [*(judged.record() for judged in verdict.gates), *(failed for failed, _ in misses)]
        return min((code for code in (verdict.exit_code, *(code for _, code in misses)) if code), default=0)

    def figures(self, done: Ran, record: dict[str, Any]) -> dict[str, float]:
        """The figures that gates may name. ``subset_drop`` is against the unpruned student (the teacher where there is none).

        Without a control the gain was not measured, and what was not measured does not pass.
        """
        if done.result is None:
            return {}
        teacher, unpruned = self._of_role("teacher"), self._of_role("student") or self._of_role("teacher")
        parent = next((r for r in self.records if record["parent"] and r.get("sha256") == record["parent"]), None)
        out: dict[str, float] = {name: record[name] for name in ("params", "macs", "size_bytes") if name in record}
        if "quality" in record:
            out["quality"] = record["quality"]["value"]
        out |= {f"subset.{name}": value for name, value in record["subsets"].items()}
        # A teacher's file of outputs may be of other samples, or of none, and has no parameters: then there is no ratio.
        theirs, ours = (teacher or {}).get("quality"), record.get("quality")
        if theirs and ours and theirs["n"] == ours["n"] and theirs["value"]:
            out["quality_ratio_to_teacher"] = ours["value"] / theirs["value"]
        if teacher and "params" in teacher:
            out["params_ratio_to_teacher"] = record["params"] / teacher["params"]
        if parent and "macs" in parent:
            out["macs_ratio_to_parent"] = record["macs"] / parent["macs"]
            out["params_ratio_to_parent"] = record["params"] / parent["params"]
        whole = unpruned["subsets"] if unpruned else {}
        drops = {name: whole[name] - value for name, value in record["subsets"].items() if name in whole}
        out |= {f"subset_drop.{name}": drop for name, drop in drops.items()}
        for head, of_head in record.get("heads", {}).items():
            out |= _of_head(head, of_head, (unpruned or {}).get("heads", {}).get(head, {}).get("subsets", {}))
        for name, value in record.get("latency", {}).items():
            if (name.startswith("ratio") and not name.endswith("_ci95")) or name.endswith("_ms"):
                out[f"latency_{name}"] = value
        over = next((control for control in self.controls if control["name"] == _CONTROL), None)
        if over and _CONTROL in done.result.controls:
            out |= {"gain": over["gain"], "gain_ci95_low": over["gain_ci95"][0]}
        return out

    def _of_role(self, role: str) -> dict[str, Any] | None:
        found = zip(self.ran, self.records)
        return next((record for done, record in found if done.artifact and done.step.row.role == role), None)


def _of_head(name: str, figures: Mapping[str, Any], unpruned: Mapping[str, float]) -> dict[str, float]:
    """The figures of one head of several, as gates name them. ``unpruned``: the unpruned student's subsets."""
    subsets = figures["subsets"]
    drops = {subset: unpruned[subset] - value for subset, value in subsets.items() if subset in unpruned}
    found = {"quality": figures["quality"]["value"]}
    found |= {f"subset.{subset}": value for subset, value in subsets.items()}
    found |= {f"subset_drop.{subset}": drop for subset, drop in drops.items()}
    return {f"heads.{name}.{figure}": value for figure, value in found.items()}
