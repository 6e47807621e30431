"""Reading report.json, from which the table and the page are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmedge.errors import MmedgeError, UsageError


def read_report(path: Path) -> dict[str, Any]:
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
    return report


def modality_subsets(report: dict[str, Any]) -> list[str]:
    """The names of all subsets that some stage has, smallest first."""
    names = {name for stage in report["stages"] for name in stage.get("subsets", {})}
    return sorted(names, key=lambda name: (name.count("+"), name))
