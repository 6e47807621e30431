"""report.html: one self-contained page, drawn from report.json alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmedge.artifact import code_hash, hash_json, remembered, replacing, sha256_of
from mmedge.errors import MissingDependency
from mmedge.frozen import Record
from mmedge.report import plots, pruned, quantized
from mmedge.report.charts import contribution, embedding
from mmedge.report.compared import ComparisonRecord, heading_of, text_of
from mmedge.report.explained import ExplanationRecord
from mmedge.report.quantized_file import FileReport
from mmedge.report.record import modality_subsets
from mmedge.report.reviewed import contributed, frontier_of, reviewed
from mmedge.report.schema import QualityRecord, Report
from mmedge.report.table import short

# Characters of a page in which it says what it was drawn from.
_HEAD = 500


def write_html(report: Report | FileReport, path: Path, kept: Path | None = None) -> None:
    """Write the page of a run, or of a quantized file, beside its report.

    ``kept``: a folder where pictures are kept, which are not drawn again of the same figures; nor is a page that stands
    there already of a run that computed nothing since. Raises MissingDependency where jinja2 or matplotlib is not installed.
    """
    if isinstance(report, Report):
        drawn = _drawn_of(report)
        if kept is not None and _stands(drawn, path):
            return
        page = _page(report, kept, drawn)
    else:
        page = _file_page(report)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_comparison(found: ComparisonRecord, path: Path) -> None:
    """Write the page of several runs. Raises MissingDependency where jinja2 is not installed."""
    page = _template("comparison.html.j2").render(found=found, heading=heading_of, text=text_of)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_explanation(found: ExplanationRecord, path: Path) -> None:
    """Write the page of an explanation. Raises MissingDependency where jinja2 or matplotlib is not installed."""
    from markupsafe import Markup

    page = _template("explanation.html.j2").render(
        found=found,
        contributed=[(part, Markup(contribution.draw(part))) for part in found.contributions],
        embeddings=[(part, Markup(embedding.draw(part))) for part in found.embeddings],
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


@functools.cache
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


def _file_page(report: FileReport) -> str:
    from markupsafe import Markup

    template = _template("file.html.j2")
    picture = Markup(quantized.sensitivity(report.sensitivity)) if report.sensitivity else ""
    return str(template.render(report=report.record(), name=Path(report.model).name, picture=picture))


def _drawn_of(report: Report) -> str:
    """A hash of what a page shows, but for when and by which command it was written, and for what was taken as it is."""
    stages = [
        stage if stage.status == "skipped" else stage.model_copy(update={"status": "cached", "seconds": None})
        for stage in report.stages
    ]
    provenance = report.provenance and report.provenance.model_copy(update={"command": None, "started": ""})
    figures = report.model_copy(update={"stages": stages, "provenance": provenance}).record()
    templates = [sha256_of(file) for file in sorted(Path(__file__).parent.glob("*.j2"))]
    return hash_json([figures, code_hash("report"), templates])


def _stands(drawn: str, path: Path) -> bool:
    """Whether the page in ``path`` was drawn from what has the hash ``drawn``."""
    try:
        with path.open(encoding="utf-8", errors="replace") as page:
            return f'content="{drawn}"' in page.read(_HEAD)
    except OSError:
        return False


def _page(report: Report, kept: Path | None, drawn_of: str) -> str:
    from markupsafe import Markup

    template = _template("page.html.j2")

    def picture(draw: Callable[[Any], str], record: Record) -> str:
        if kept is None:
            return Markup(draw(record))
        key = hash_json([draw.__module__, draw.__name__, record.record(), code_hash("report")])
        return Markup(remembered(kept / f"{key[:24]}.json", lambda: draw(record)))

    # What no picture shows, and what differs where the same run computes nothing again.
    same: dict[str, object] = {"status": "cached", "seconds": None, "notes": []}
    stages = [stage.model_copy(update=same) for stage in report.stages]
    drawn = report.model_copy(update={"stages": stages, "provenance": None})
    page = template.render(
        report=report.record(),
        subsets=modality_subsets(report),
        picture=picture(plots.accuracy_against_latency, drawn) if any(s.latency for s in report.stages) else "",
        matrix=picture(plots.subset_matrix, drawn) if modality_subsets(report) else "",
        learning=picture(plots.learning_curves, drawn) if any(s.learning for s in report.stages) else "",
        gains=picture(plots.gains, drawn) if report.controls else "",
        sensitivities={
            stage.stage: picture(quantized.sensitivity, stage.sensitivity)
            for stage in report.stages
            if stage.sensitivity
        },
        prunings={
            stage.stage: {"rows": rows, "picture": picture(pruned.curves, stage.pruning) if rows else ""}
            for stage in report.stages
            if stage.pruning
            for rows in [pruned.rows(stage.pruning)]
        },
        frontier=frontier_of(drawn, picture),
        reviewed=reviewed(drawn, picture),
        disagreements=report.disagreements,
        contributed=contributed(drawn, picture),
        inside=report.inside,
        embeddings=[
            (part, picture(embedding.draw, part)) for part in (report.inside.embeddings if report.inside else ())
        ],
        shipped=drawn.contributions[0].stage if drawn.contributions else "",
        allowed=_allowed(report),
        several=any(stage.heads for stage in report.stages),
        data=report.data,
        classes=_classes(report),
        provenance=report.provenance,
        mmedge=report.mmedge,
        headline=_headline(report),
        recipe=json.dumps(report.recipe, indent=2, ensure_ascii=False),
        drawn=drawn_of,
    )
    return str(page)


def _classes(report: Report) -> dict[str, dict[str, list[int]]]:
    """{head: {label: samples of each split}} of the heads that have labels."""
    splits = report.data.splits or {}
    found: dict[str, dict[str, list[int]]] = {}
    for number, card in enumerate(splits.values()):
        heads = {head: of_head.classes for head, of_head in card.heads.items()} if card.heads else {"": card.classes}
        for head, classes in heads.items():
            for label, n in (classes or {}).items():
                found.setdefault(head, {}).setdefault(label, [0] * len(splits))[number] = n
    return found


def _allowed(report: Report) -> str:
    """How the recipe lets samples be named."""
    section = report.recipe.get("report")
    return str(section.get("samples")) if isinstance(section, dict) else "rows"


def _counted(quality: QualityRecord) -> str:
    """How much the interval rests on: samples, and independent groups where they are fewer."""
    return f"n = {quality.n}" + (f" in {quality.groups} groups" if quality.groups < quality.n else "")


def _headline(report: Report) -> list[tuple[str, str]]:
    """(figure, what it is) of the last timed stage against the teacher: what a reader wants first."""
    there = [stage for stage in report.stages if stage.status != "skipped"]
    timed = [(stage, stage.latency, stage.quality) for stage in there if stage.latency and stage.quality]
    teacher = next((stage for stage in there if stage.parent is None), None)  # what was made of nothing else
    if not timed or not teacher or timed[-1][0] is teacher:
        return []
    last, latency, quality = timed[-1]
    theirs = teacher.quality
    beside = f"; the teacher has {theirs.value:.3f} ({theirs.ci95[0]:.3f} to {theirs.ci95[1]:.3f})" if theirs else ""
    low, high = quality.ci95
    about = f"{quality.metric} of {last.stage} ({low:.3f} to {high:.3f}, {_counted(quality)}){beside}"
    cards = [(f"{quality.value:.3f}", about)]
    if teacher.latency and latency.ratio_to_teacher:
        about = f"as fast as the teacher: {latency.p50_ms:.3f} ms against {teacher.latency.p50_ms:.3f} ms (p50)"
        cards.append((f"{1 / latency.ratio_to_teacher:.1f} ×", about))
    for before, after, what in (
        (teacher.params, last.params, "fewer parameters"),
        (teacher.macs, last.macs, "fewer multiply-accumulates"),
    ):
        if before is not None and after:
            cards.append((f"{before / after:.0f} ×", f"{what}: {short(after)} against {short(before)}"))
    return cards
