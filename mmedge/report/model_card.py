"""A model card: the README.md of a bundle, with the Hub's metadata in front, of what its manifest and its report tell."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmedge import tasks
from mmedge.artifact import Artifact, contract_of, replacing
from mmedge.bundle import Contents
from mmedge.contract import Contract
from mmedge.hub import CARD
from mmedge.report.compared import cells_row, markdown, plain_words
from mmedge.report.schema import QualityRecord, Report, StageRecord

# What the Hub files models under, of what a model of one kind of input may be.
_HUB = ("audio-classification", "image-classification", "tabular-classification", "tabular-regression", "text-classification")  # fmt: skip
# What a spec says that is not how raw values become a tensor, or is too long to be read.
_UNTOLD = ("kind", "column", "fitted", "categories", "mean", "std", "tokenizer_file")


def report_of(bundle: Artifact) -> Report | None:
    """The report of the run that made a bundle, where it lies beside it still."""
    from mmedge.report.record import read_report

    file = bundle.path.resolve().parent / "report.json"
    found = read_report(file) if file.is_file() else None
    return found if isinstance(found, Report) and _made(found, bundle) else None


def _made(report: Report, bundle: Artifact) -> bool:
    return bundle.parent in [stage.sha256 for stage in report.stages]


def write_card(bundle: Artifact, report: Report | None, license: str | None = None, repository: str = "") -> Path:
    """Write ``README.md`` into a bundle's folder, beside what its manifest vouches for; returns it.

    ``report``: of the run, without which the figures are those of the manifest. ``license``: its identifier, as
    ``apache-2.0``; none is claimed where it is not given. ``repository``: where on the Hub it will lie, ``owner/name``.
    """
    with replacing(bundle.path / CARD) as temporary:
        temporary.write_text(card(bundle, report, license, repository), encoding="utf-8")
    return bundle.path / CARD


def card(bundle: Artifact, report: Report | None, license: str | None = None, repository: str = "") -> str:
    """The card's text. See ``write_card``."""
    contents, contract = Contents.model_validate(bundle.meta), contract_of(bundle)
    stages = _stages(contents, report)
    sections = (
        _metadata(contents, contract, stages, license),
        [f"# {plain_words(contents.name)}", "", *_summary(contents, contract, report)],
        ["## How to use it", "", *_use(contract, repository)],
        ["## Inputs", "", *_inputs(contract)],
        ["## Outputs", "", *_outputs(contract)],
        ["## Figures", "", *_figures(contents, contract, stages, report)],
        ["## Data", "", *_data(contents, report)],
        ["## How it was made", "", *_made_by(report)],
    )
    return "\n".join(line for section in sections for line in (*section, ""))


def _stages(contents: Contents, report: Report | None) -> dict[str, StageRecord]:
    """{backend: what was measured of its engine}."""
    if report is not None:
        found = {stage.stage.removeprefix("export-"): stage for stage in report.stages if stage.artifact}
        return {name: found[name] for name in contents.targets if name in found}
    return {
        name: StageRecord.model_validate({"stage": f"export-{name}", "status": "cached", **figures})
        for name, figures in contents.figures.items()
    }


def _metadata(contents: Contents, contract: Contract, stages: dict[str, StageRecord], license: str | None) -> list[str]:
    """What the Hub reads, in YAML between two lines of three dashes."""
    from ruamel.yaml import YAML

    kinds = list(dict.fromkeys(spec.kind for spec in contract.modalities.values()))
    meanings = list(dict.fromkeys(head.task for head in contract.heads.values()))
    tag = _pipeline_tag(contract)
    many = ["multimodal"] if len(contract.modalities) > 1 else []
    values: dict[str, Any] = {"library_name": "mmedge"}
    values |= {"license": license} if license else {}
    values |= {"pipeline_tag": tag} if tag else {}
    values["tags"] = ["mmedge", "onnx", "edge", *many, *kinds, *meanings, *contents.targets]
    results = [
        _result(contents, head, quality, tag)
        for head, quality in _qualities(next(iter(stages.values()), None), contract)
    ]
    if results:
        values["model-index"] = [{"name": contents.name, "results": results}]
    text = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 4096
    yaml.representer.ignore_aliases = lambda value: True
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(values, text)
    return ["---", text.getvalue().rstrip(), "---"]


def _pipeline_tag(contract: Contract) -> str:
    """What the Hub files it under; empty where it has no name for that, as for models of several kinds of input."""
    kinds = {spec.kind for spec in contract.modalities.values()}
    tags = {
        f"{kind}-{'classification' if tasks.of(head).LABELS else 'regression'}"
        for kind in kinds
        for head in contract.heads.values()
        if not tasks.of(head).PLACED and tasks.row_by_row(head)
    }
    return next(iter(tags)) if len(tags) == 1 and tags <= {*_HUB} else ""


def _qualities(stage: StageRecord | None, contract: Contract) -> Iterator[tuple[str, QualityRecord]]:
    if stage is not None and stage.heads:
        yield from ((name, head.quality) for name, head in stage.heads.items() if head.quality)
    elif stage is not None and stage.quality:
        yield next(iter(contract.heads)), stage.quality


def _result(contents: Contents, head: str, quality: QualityRecord, tag: str) -> dict[str, Any]:
    """One entry of the Hub's model-index."""
    slug = re.sub(r"[^a-z0-9]+", "-", contents.data.lower()).strip("-") or "data"
    low, high = quality.ci95
    return {
        "task": {"type": tag or "other", "name": head},
        "dataset": {"type": slug, "name": contents.data, "split": quality.split, "args": {"samples": quality.n}},
        "metrics": [
            {
                "type": quality.metric,
                "value": round(quality.value, 6),
                "name": f"{quality.metric} on {quality.n} samples of the {quality.split} split, 95 % interval {low:.3f} to {high:.3f}",
            }
        ],
    }


def _summary(contents: Contents, contract: Contract, report: Report | None) -> list[str]:
    meanings = ", ".join(dict.fromkeys(head.task for head in contract.heads.values()))
    lines = [
        f"A model for edge devices: {meanings} from {_listed(list(contract.modalities))}. A bundle of mmedge: engines,"
        " preprocessing, labels and figures in one folder, which needs neither torch nor the code that trained it.",
        "",
    ]
    failed = [
        f"{stage.stage}: {gate.name}" for stage in (report.stages if report else ()) for gate in stage.gates if not gate.passed
    ]  # fmt: skip
    meant = {
        "pass": "every limit that was asked of it is proved on the test split.",
        "fail": f"not all limits that were asked of it hold: {', '.join(map(plain_words, failed))}.",
        "cannot tell": f"too few samples to prove all limits: {', '.join(map(plain_words, failed))}.",
    }.get(contents.verdict, "no limit was asked of it.")
    return [*lines, f"Verdict: **{contents.verdict}**: {meant}"]


def _use(contract: Contract, repository: str) -> list[str]:
    given = ", ".join(f"{name}={_EXAMPLES.get(spec.kind, name)}" for name, spec in contract.modalities.items())
    heads = len(contract.heads) > 1
    fetched = (
        ["from huggingface_hub import snapshot_download", "", f'path = snapshot_download("{repository}", local_dir="bundle")']
        if repository
        else ['path = "bundle"  # this folder']
    )  # fmt: skip
    return [
        "```python",
        "# pip install mmedge",
        "import mmedge",
        *fetched,
        "engine = mmedge.load(path)",
        f"prediction = engine.predict({given})",
        "print(prediction.heads)" if heads else "print(prediction)",
        "```",
        "",
        "`engine.run({name: array})` takes tensors that are preprocessed already.",
    ]


_EXAMPLES = {"image": '"photo.jpg"', "audio": '"sound.wav"', "text": '"a text"', "tabular": '{"column": 1.0}'}
_EXAMPLES |= {"points": '"cloud.ply"', "video": '"clip.mp4"'}


def _inputs(contract: Contract) -> Iterator[str]:
    yield cells_row(["input", "kind", "tensor", "preprocessing, which the bundle does itself"])
    yield "| --- | --- | --- | --- |"
    for name, spec in contract.modalities.items():
        told = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={*_UNTOLD})
        steps = ", ".join(f"{key} {value}" for key, value in told.items() if value not in ("", [], {}, False))
        yield cells_row([name, spec.kind, f"{spec.dtype} [batch, {', '.join(map(str, spec.shape))}]", steps])
    yield ""
    if len(contract.modalities) > 1:
        yield (
            "Any of them may be missing, but not all: leave it out of `predict`, and the graph's input `present` says so."
            " What that costs stands under the subsets below."
        )


def _outputs(contract: Contract) -> Iterator[str]:
    for name, head in contract.heads.items():
        labels = (
            f": {plain_words(_listed(head.labels[:40]))}{', …' if len(head.labels) > 40 else ''}" if head.labels else ""
        )
        yield f"- `{name}`: {head.task}{labels}"


def _figures(
    contents: Contents, contract: Contract, stages: dict[str, StageRecord], report: Report | None
) -> Iterator[str]:
    measured = [(name, stage) for name, stage in stages.items() if stage.quality or stage.latency or stage.size_bytes]
    if not measured:
        yield "Nothing was measured: it was exported without data. Its engines were compared with the network on generated inputs."
        return
    yield cells_row(
        ["engine", "precision", "quality on the test split [95 %]", "n", "p50 ms", "of the first model's", "size"]
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for name, stage in measured:
        judged, latency = list(_qualities(stage, contract)), stage.latency
        of_head = [
            f"{head}: {_interval(quality)}" if len(judged) > 1 else _interval(quality) for head, quality in judged
        ]
        ratio = latency.ratio_to_teacher if latency else None
        yield cells_row(
            [
                name,
                contents.targets[name].precision,
                "; ".join(of_head) or "not measured here",
                ", ".join(dict.fromkeys(str(quality.n) for _, quality in judged)),
                f"{latency.p50_ms:.3f}" if latency else "not measured here",
                "" if ratio is None else f"{ratio:.3f}",
                f"{stage.size_bytes / 1000:,.0f} kB" if stage.size_bytes else "",
            ]
        )
    first = measured[0][1]
    if report and first.latency:
        one, machine = first.latency, report.machine
        yield ""
        yield (
            f"Latency is the median of {one.runs} calls of batch {one.batch} on {one.threads} thread{'s' if one.threads > 1 else ''} of"
            f" {machine.cpu}, {machine.system}, ONNX Runtime {machine.onnxruntime}; another machine has another."
        )
    if first.subsets:
        yield from ("", cells_row(["inputs that are there", "quality on the test split [95 %]"]), "| --- | --- |")
        for subset, value in first.subsets.items():
            ends = (first.subsets_ci95 or {}).get(subset)
            yield cells_row([subset, f"{value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")])


def _data(contents: Contents, report: Report | None) -> Iterator[str]:
    if report is None:
        yield f"{plain_words(contents.data)}."
        return
    data = report.data
    yield f"{plain_words(data.source)}: {data.train} training, {data.validation} validation and {data.test} test samples (sha256 `{data.sha256[:16]}`)."
    for split, found in (data.splits or {}).items():
        groups = f", {found.groups} independent groups" if found.groups < found.samples else ""
        there = ", ".join(f"{name} {count}" for name, count in found.present.items())
        yield f"- {split}: {found.labelled} labelled of {found.samples}{groups}; with {there}"
    yield ""
    yield "Every choice was made on training and validation samples; the test split was read afterwards, once. What holds of other data than this was not measured."


def _made_by(report: Report | None) -> list[str]:
    if report is None:
        return ["Its report does not lie beside it."]
    return markdown(report).splitlines()[2:]


def _interval(quality: QualityRecord) -> str:
    return f"{quality.metric} {quality.value:.3f} [{quality.ci95[0]:.3f}, {quality.ci95[1]:.3f}]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
