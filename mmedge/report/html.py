"""report.html: one self-contained page, drawn from report.json alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmedge.artifact import code_hash, hash_json, remembered, replacing
from mmedge.errors import MissingDependency
from mmedge.report import plots, pruned, quantized
from mmedge.report.record import modality_subsets
from mmedge.report.table import short


def write_html(report: dict[str, Any], path: Path, kept: Path | None = None) -> None:
    """Write the page of a run, or of a quantized file, beside its report.

    ``kept``: a folder where pictures are kept, which are not drawn again of the same figures. Raises MissingDependency
    where jinja2 or matplotlib is not installed.
    """
    template = _template("page.html.j2" if "stages" in report else "file.html.j2")
    page = _page(report, template, kept) if "stages" in report else _file_page(report, template)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _template(name: str) -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency(
            "the report page needs jinja2, which is not installed", todo="pip install 'mmedge[toolchain]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["short"] = short
    return environment.get_template(name)


def _file_page(report: dict[str, Any], template: Any) -> str:
    from markupsafe import Markup

    picture = Markup(quantized.sensitivity(report["sensitivity"])) if "sensitivity" in report else ""
    return str(template.render(report=report, name=Path(report["model"]).name, picture=picture))


# What no picture shows, and what differs where the same run computes nothing again.
_NOT_DRAWN = ("status", "seconds", "notes", "gates")


def _page(report: dict[str, Any], template: Any, kept: Path | None) -> str:
    from markupsafe import Markup

    def picture(draw: Callable[[Any], str], shown: Any) -> str:
        if kept is None:
            return Markup(draw(shown))
        key = hash_json([draw.__module__, draw.__name__, shown, code_hash("report")])
        return Markup(remembered(kept / f"{key[:24]}.json", lambda: draw(shown)))

    stages = [{name: stage[name] for name in stage if name not in _NOT_DRAWN} for stage in report["stages"]]
    drawn = {"stages": stages, "controls": report["controls"]}
    page = template.render(
        report=report,
        subsets=modality_subsets(report),
        picture=picture(plots.accuracy_against_latency, drawn) if any("latency" in s for s in stages) else "",
        matrix=picture(plots.subset_matrix, drawn) if modality_subsets(report) else "",
        learning=picture(plots.learning_curves, drawn) if any("learning" in s for s in stages) else "",
        gains=picture(plots.gains, drawn) if report["controls"] else "",
        sensitivities={
            stage["stage"]: picture(quantized.sensitivity, stage["sensitivity"])
            for stage in stages
            if "sensitivity" in stage
        },
        prunings={
            stage["stage"]: {"rows": rows, "picture": picture(pruned.curves, stage["pruning"]) if rows else ""}
            for stage in stages
            if "pruning" in stage
            for rows in [pruned.rows(stage["pruning"])]
        },
        headline=_headline(report),
        recipe=json.dumps(report["recipe"], indent=2, ensure_ascii=False),
    )
    return str(page)


def _counted(quality: dict[str, Any]) -> str:
    """How much the interval rests on: samples, and independent groups where they are fewer."""
    fewer = quality["groups"] < quality["n"]
    return f"n = {quality['n']}" + (f" in {quality['groups']} groups" if fewer else "")


def _headline(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, what it is) of the last timed stage against the teacher: what a reader wants first."""
    by_stage = {stage["stage"]: stage for stage in report["stages"] if stage["status"] != "skipped"}
    timed = [stage for stage in by_stage.values() if "latency" in stage]
    teacher = by_stage.get("teacher")
    if not timed or not teacher or timed[-1] is teacher:
        return []
    last = timed[-1]
    quality, cards = last["quality"], []
    beside = f"; the teacher has {teacher['quality']['value']:.3f}" if "quality" in teacher else ""
    cards.append(
        (
            f"{quality['value']:.3f}",
            f"{quality['metric']} of {last['stage']} ({quality['ci95'][0]:.3f} to {quality['ci95'][1]:.3f}, {_counted(quality)}){beside}",
        )
    )
    if "latency" in teacher:
        cards.append(
            (
                f"{1 / last['latency']['ratio_to_teacher']:.1f} ×",
                f"as fast as the teacher: {last['latency']['p50_ms']:.3f} ms against {teacher['latency']['p50_ms']:.3f} ms (p50)",
            )
        )
    for field, what in (("params", "fewer parameters"), ("macs", "fewer multiply-accumulates")):
        if field in teacher:
            cards.append(
                (
                    f"{teacher[field] / last[field]:.0f} ×",
                    f"{what}: {short(last[field])} against {short(teacher[field])}",
                )
            )
    return cards
