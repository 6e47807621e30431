"""Reading report.json, from which the table and the page are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mmedge.errors import MmedgeError, UsageError
from mmedge.report.schema import FileReport, Report

AnyReport = TypeVar("AnyReport", Report, FileReport)


def read_report(path: Path) -> Report | FileReport:
    """Read the report.json of a run, or of a quantized file. Raises UsageError where there is none, MmedgeError where it is no report."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            "there is no report.json", where=str(path), todo="mmedge run RECIPE --out DIR writes one"
        ) from None
    except (OSError, ValueError) as error:
        raise MmedgeError(f"the report cannot be read: {error}", where=str(path)) from error
    known = isinstance(report, dict) and report.get("schema") == 1
    if not known or not (isinstance(report.get("stages"), list) or isinstance(report.get("candidates"), list)):
        raise MmedgeError("this is not a report that mmedge reads", where=str(path))
    return parsed(report, Report) if "stages" in report else parsed(report, FileReport)


def parsed(record: object, kind: type[AnyReport]) -> AnyReport:
    """A report's JSON as its model; raises MmedgeError where a figure is missing or is none."""
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MmedgeError(f"this is not a report that mmedge reads: {place}: {first['msg']}") from None


def modality_subsets(report: Report) -> list[str]:
    """The names of all subsets that some stage has, smallest first."""
    names = {name for stage in report.stages for name in stage.subsets or {}}
    return sorted(names, key=lambda name: (name.count("+"), name))
