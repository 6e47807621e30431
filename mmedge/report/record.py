"""Reading report.json, from which the table and the page are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mmedge.errors import MmedgeError, UsageError
from mmedge.report.quantized_file import FileReport
from mmedge.report.schema import Report

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
    schema = report.get("schema") if isinstance(report, dict) else None
    if isinstance(schema, int) and schema > 1:
        written = f", by mmedge {report['mmedge']}" if isinstance(report.get("mmedge"), str) else ""
        raise MmedgeError(
            f"the report is not a report that mmedge reads: it was written in format {schema}{written}; this version reads format 1",
            where=str(path),
            todo="update mmedge",
        )
    if schema != 1 or not (isinstance(report.get("stages"), list) or isinstance(report.get("candidates"), list)):
        raise MmedgeError("this is not a report that mmedge reads", where=str(path))
    return parsed(report, Report, path) if "stages" in report else parsed(report, FileReport, path)


def parsed(record: object, kind: type[AnyReport], path: Path | None = None) -> AnyReport:
    """A report's JSON as its model; raises MmedgeError where a figure is missing or is none."""
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MmedgeError(
            f"this is not a report that mmedge reads: {place}: {first['msg']}", where=str(path) if path else None
        ) from None


def modality_subsets(report: Report) -> list[str]:
    """The names of all subsets that some stage has, smallest first."""
    names = {name for stage in report.stages for name in stage.subsets or {}}
    return sorted(names, key=lambda name: (name.count("+"), name))
