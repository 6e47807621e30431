"""What came of the stages of a run, and of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from mmedge.artifact import Artifact
from mmedge.pipeline.stages import Step
from mmedge.report.schema import Report
from mmedge.stages.results import StageResult


@dataclass(frozen=True)
class Ran:
    """One stage of a run. ``status``: ran, cached, or skipped (then there is no artifact, and ``note`` says why).

    ``given``: it was named by ``--from``, or stands beside what was; its gates are another run's.
    """

    step: Step
    artifact: Artifact | None
    status: Literal["ran", "cached", "skipped"]
    seconds: float
    note: str | None = None
    given: bool = False

    @property
    def stage(self) -> str:
        return self.step.name

    @cached_property
    def result(self) -> StageResult | None:
        """What the stage said of its artifact."""
        return self.step.row.result().model_validate(self.artifact.meta) if self.artifact else None


@dataclass(frozen=True)
class Outcome:
    """The report that was written, by the main of several processes, and the exit code that its gates ask for."""

    report: Report | None
    exit_code: int


def parent_of(before: Sequence[Ran]) -> Artifact | None:
    """The artifact that the next stage goes on from."""
    return next((done.artifact for done in reversed(before) if done.artifact and not done.step.ends), None)


def teacher_of(before: Sequence[Ran]) -> Artifact | None:
    """The artifact of the teacher, where the run has one."""
    return next((done.artifact for done in before if done.step.row.role == "teacher"), None)
