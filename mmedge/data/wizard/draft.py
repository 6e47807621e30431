"""A proposal written out: a complete, commented recipe that runs as it is, and a module for code of one's own."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from mmedge.data.wizard.propose import WRITTEN, Proposal, keys_of
from mmedge.gate import told_apart
from mmedge.recipe.gates import default_limits
from mmedge.recipe.reference import SCHEMA_LINE
from mmedge.spec import AudioSpec, ModalitySpec, TabularSpec, TextSpec
from mmedge.tasks import TASKS
from mmedge.tasks.head import Target

# Widths of the encoders' stages by kind: (teacher, student).
_WIDTHS = {
    "image": ([24, 48, 96], [16, 24, 32]),
    "audio": ([24, 48, 96], [16, 24, 32]),
    "sensor": ([32, 64, 96], [16, 24, 32]),
    "text": ([64, 96], [24, 24]),
    "tabular": ([64], [24]),
    "array": ([64], [24]),
    "points": ([64, 64, 128, 256], [16, 24, 48]),
    "video": ([24, 48, 96], [16, 24, 32]),
}
# Augmentation by kind.
_CHANGES = {
    "points": "light",
    "video": "{shift: 2, shift_rows: 2}",
    "image": "{shift: 2, shift_rows: 2}",
    "audio": "{shift: 4, shift_rows: 1}",
    "sensor": "{shift: 3}",
}
# Columns that are not used and told one by one.
_LISTED = 60
# Optimizer steps that a small model settles in.
_STEPS = 1000


# The module of ``--code``.
_CODE = Template('''"""Code of your own for $recipe. A recipe names it as module:attribute; mmedge imports it from the recipe's folder.

`mmedge check` runs these and names what would break later: weights in plain lists, squeeze() at batch 1, devices in the
code. See recipes/own_data.py and the recipe's comments.
"""

import torch
from torch import nn

# Values a sample of each modality has, flattened; `mmedge check` prints the shapes.
SIZES = $sizes


class Fusion(nn.Module):
    """forward gets a tensor a modality, and `present`, bool [batch, $count] in this order: $arguments.

    Without the parameter `present`, an absent modality is replaced by its training mean (text: by padding).
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU()) for name, size in SIZES.items()}
        )
        self.head = nn.Linear(hidden * $count, $outputs)

    def forward(self, $arguments, present):
        inputs = {$inputs}
        parts = [
            self.branches[name](x.float()) * present[:, index : index + 1] for index, (name, x) in enumerate(inputs.items())
        ]
        return self.head(torch.cat(parts, dim=1))  # [batch, $outputs]


def teacher(hidden: int = 128) -> nn.Module:
    """Named by teacher.model.factory; `hidden` comes from teacher.model.args."""
    return _made(hidden)


def student(hidden: int = 32) -> nn.Module:
    """Named by distill.model.factory."""
    return _made(hidden)


def _made(hidden: int) -> nn.Module:
    return Fusion(hidden)


class Dataset:
    """Map-style: an item is a dict of a raw value a modality (a path, an array, None where it is missing), the target and an id."""

    def __init__(self, split: str):
        self.rows: list[dict] = []  # fill in: the samples of "train", "validation" or "test"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return {"id": row["id"], $cells, $target: row["target"]}


def build(split: str) -> Dataset:
    """Named by data.dataset instead of data.manifest."""
    return Dataset(split)
''')


@dataclass(frozen=True)
class _Schedule:
    """What the number of rows says of training and budgets; ``drop``: what quality may fall by, and ``why``."""

    epochs: int
    batch: int
    drop: float
    why: str


def recipe_text(proposal: Proposal, path: Path, code: str | None) -> str:
    """The recipe's YAML. ``path`` is where it will stand; ``code`` the module beside it, where one is written."""
    kinds: dict[str, str] = {name: spec.kind for name, spec in proposal.modalities.items()}
    schedule, code = _schedule(proposal), None if TASKS[proposal.task].CODES else code
    lines = [
        SCHEMA_LINE,
        f"# Written by mmedge init from {proposal.manifest.name}: {proposal.rows} rows, none of them dropped.",
        "# It runs as it is:",
        f"#   mmedge check {path.name} && mmedge run {path.name}",
        "schema: 1",
        f"name: {_plain(_name(path))}",
        "seed: 0",
        "",
        *_data(proposal, path.resolve().parent),
        *_modalities(proposal),
        "",
        *_teacher_and_student(proposal, kinds, schedule, code),
        "",
        *_compression(kinds, schedule),
        "",
        "export:",
        "  targets:",
        "    onnxruntime-cpu: {}",
        "    # tensorrt-rtx: {precision: fp16, required: false}  # pip install 'mmedge[tensorrt-rtx]'",
        "",
        "measure: {runs: 500}",
        "",
        *_gates(proposal),
    ]
    return "\n".join(lines) + "\n"


def _name(path: Path) -> str:
    """The recipe's name, plain words, of its file's."""
    return re.sub(r"[^\w .-]+", "-", path.stem).strip(" .-")[:100].strip(" .-") or "recipe"


def _schedule(proposal: Proposal) -> _Schedule:
    train_rows = max(1, int(0.7 * proposal.rows))
    validation_rows = max(1, int(0.15 * proposal.rows))
    batch = 64 if train_rows >= 1000 else 32 if train_rows >= 128 else max(2, train_rows // 4)
    epochs = min(40, max(4, round(_STEPS * batch / train_rows)))
    if not TASKS[proposal.task].LABELS:  # the metric is no share of samples
        return _Schedule(epochs, batch, 0.02, "on validation")
    why = f"about the least that some {validation_rows} validation samples can prove: two standard errors"
    return _Schedule(epochs, batch, max(0.02, validation_rows**-0.5), why)


def _data(proposal: Proposal, folder: Path) -> list[str]:
    """The section ``data`` up to its modalities; paths are relative to ``folder``."""

    def beside(file: Path) -> str:
        return Path(os.path.relpath(file, folder)).as_posix()

    lines = ["data:", f"  manifest: {_plain(beside(proposal.manifest.resolve()))}", f"  task: {proposal.task}"]
    if TASKS[proposal.task].SEVERAL:
        lines.append('  separator: ";"  # between the labels of one cell')
    why = "an empty cell is an unlabelled sample: distillation learns from it too"
    lines.append(f"  target: {_plain(proposal.target)}  # {why}")
    lines += _of_target(proposal)
    for key, why in (("id", "names a sample in errors"), ("group", "whole groups go to one split"), ("split", "")):
        value = getattr(proposal, key)
        if value:
            lines.append(f"  {key}: {_plain(value)}" + (f"  # {why}" if why else ""))
    if proposal.align:
        why = "Tables with times of their own: columns of the row nearest in time, or between the two around."
        lines += [f"  # {why}", "  align:"]
        for name, stream in proposal.align.items():
            keys = stream.model_dump(exclude_unset=True) | {"file": beside(stream.file)}
            lines.append(f"    {name}: {_flow(keys)}")
    if not proposal.split:
        lines.append("  ratios: {train: 0.7, validation: 0.15, test: 0.15}")
        lines.append("  # fold: {k: 5, index: 0}  # instead of ratios: 5-fold cross-validation")
    return [
        *lines,
        "  # Columns that name people can be dropped or hashed before anything is written:",
        "  # redact: {drop: [], hash: [], key: MMEDGE_REDACT_KEY}",
    ]


def _of_target(proposal: Proposal) -> list[str]:
    """What a task asks of its target beside the column, and what else could be made of the table's texts."""
    task = TASKS[proposal.task]
    if task.FILES:
        return [
            "  # shape: [72, 40]  # the most frames, then a frame; left out: those of training",
            "  # log_mel: true  # frames are natural logarithms of mel energies: mel-cepstral distortion too",
        ]
    if task.CODES:
        spec = next(column.spec for column in proposal.columns if column.name == proposal.target)
        return [f"  text: {_flow(_tokens(spec))}  # tokens of a text at most, and how many different ones there are"]
    lines = []
    for name, spec in proposal.modalities.items():
        if isinstance(spec, TextSpec) and len(proposal.modalities) > 1:
            keys = {"task": WRITTEN, "target": spec.column or name, "text": _tokens(spec)}
            lines.append(
                f"  # to have {name} written instead (a caption, a translation), without it below: {_flow(keys)[1:-1]}"
            )
    return lines


def _tokens(spec: ModalitySpec | None) -> dict[str, int]:
    """How long texts are and of how many tokens, by what their column suggests."""
    found = spec if isinstance(spec, TextSpec) else TextSpec(kind="text", length=24, vocabulary=500)
    return {"length": found.length, "vocabulary": found.vocabulary}


def _modalities(proposal: Proposal) -> list[str]:
    lines = ["  modalities:"]
    width = max((len(name) for name in proposal.modalities), default=0)
    questions = {column.name: column.question for column in proposal.columns if column.question}
    for name, spec in proposal.modalities.items():
        read = [*spec.columns, *spec.categorical] if isinstance(spec, TabularSpec) else [spec.column or name]
        holes = {column: proposal.holes[column] for column in read if column in proposal.holes}
        if holes:
            listed = ", ".join(f"{count} in {column}" for column, count in holes.items())
            then = "" if isinstance(spec, TabularSpec) else "; there the modality is missing"
            lines.append(f"    # empty cells: {listed}{then}")
        lines += [f"    # {column}: {questions[column]}" for column in read if column in questions]
        if isinstance(spec, AudioSpec):
            lines.append("    # of a teacher that was trained on others, under teacher.preprocessing:")
            lines.append("    # features: waveform, or preset: whisper, torchaudio or librosa")
        lines.append(f"    {(name + ':').ljust(width + 1)} {_flow(keys_of(spec))}")
    unused = [column for column in proposal.columns if column.role == "unused"]
    lines += [f"  # not used: {_plain(column.name)} ({column.role}: {column.why})" for column in unused[:_LISTED]]
    return [*lines, *([f"  # not used: {len(unused) - _LISTED} more columns"] if len(unused) > _LISTED else [])]


def _teacher_and_student(proposal: Proposal, kinds: dict[str, str], schedule: _Schedule, code: str | None) -> list[str]:
    train = [
        "  train:",
        f"    epochs: {schedule.epochs}",
        f"    batch_size: {schedule.batch}",
        "    learning_rate: 0.002",
        *_sides(kinds),
    ]
    if TASKS[proposal.task].BALANCED:
        why = "balanced: rare classes weigh more; also sampling: balanced, focal_gamma: 2"
        train.append(f"    class_weights: none  # {why}")
    changes = {name: _CHANGES[kind] for name, kind in kinds.items() if kind in _CHANGES}
    if changes:
        train += ["    augment:", *(f"      {name}: {change}" for name, change in changes.items()), "    views: 4"]
    return [
        "# A larger network that learns from all labels and then teaches.",
        "teacher:",
        "  model:",
        *_model(kinds, 0, code, "teacher"),
        *_writer(proposal, "transformer", 96, 2),
        *train,
        "",
        "# The small one that ships. Controls: the same one without a teacher, to know whether it helped.",
        "distill:",
        "  model:",
        *_model(kinds, 1, code, "student"),
        *_writer(proposal, "gru", 48, 1),
        "  loss: {labels: 1.0, logits: 1.0, temperature: 2.0}",
        *train,
        "  controls: {no_distillation: true, seeds: 1}",
    ]


def _compression(kinds: dict[str, str], schedule: _Schedule) -> list[str]:
    budget = [f"  max_drop: {schedule.drop:.2g}", f"  max_subset_drop: {2 * schedule.drop:.2g}"]
    return [
        "# About a third of the multiply-accumulates go, then the teacher helps to recover. With 'macs: 0.7' that is",
        "# demanded: the run fails where more than 0.7 of them are left.",
        "prune:",
        f"{budget[0]}  # {schedule.why}",
        budget[1],
        "  train:",
        f"    epochs: {max(2, schedule.epochs // 3)}",
        f"    batch_size: {schedule.batch}",
        "    learning_rate: 0.001",
        *_sides(kinds),
        "",
        "# Candidates are measured; one that is slower or loses more is not taken.",
        "quantize:",
        "  candidates: [fp32, fp16, int8, int8-mixed]",
        *budget,
    ]


def _gates(proposal: Proposal) -> list[str]:
    """Limits that the number of test rows can prove, where a model is as good as it should be."""
    rows = max(1, int(0.15 * proposal.rows))
    drops = [max(0.02, math.ceil(110 * told_apart(rows, apart)) / 100) for apart in (0.05, 0.1)]
    engine = "export-onnxruntime-cpu"
    heads = {"": Target(task=proposal.task)}
    limits = default_limits([engine], heads, list(proposal.modalities), "teacher", (drops[0], drops[1]))[engine]
    why = {
        "quality_drop_to_teacher": f"what some {rows} test samples can prove; a limit below it passes by luck alone",
        "above_majority": "than who always says the most frequent",
        "above_baseline": "than a linear model of the same inputs",
    }
    return [
        "# What must hold on the test split, proved with this confidence; what the samples cannot tell does not pass. Exit",
        "# code 3 (accuracy) or 4 (latency, size). 'gates: none' asks nothing; 'policy: point' takes figures as they are.",
        "gates:",
        "  confidence: 0.95",
        "  policy: strict",
        f"  {engine}:",
        *(
            f"    {_plain(name)}: {limit:g}" + (f"  # {why[name]}" if name in why else "")
            for name, limit in limits.items()
        ),
        "    # latency_ratio_to_teacher: 0.5",
    ]


def _sides(kinds: dict[str, str]) -> list[str]:
    why = "no modality lives off another; a network of your own runs 3 times a step: else 0.5"
    return [f"    modality_dropout: every  # {why}"] if len(kinds) > 1 else []


def _model(kinds: dict[str, str], which: int, code: str | None, factory: str) -> list[str]:
    lines = [f"    # factory: {code}:{factory}  # a network of your own instead of the lines below"] if code else []
    lines += ["    encoders:", *(f"      {name}: {{widths: {_WIDTHS[kind][which]}}}" for name, kind in kinds.items())]
    return [*lines, f"    embedding: {(96, 32)[which]}", f"    hidden: {(96, 32)[which]}", "    dropout: 0.1"]


def _writer(proposal: Proposal, kind: str, width: int, depth: int) -> list[str]:
    """What writes texts, where some are written."""
    size = {"kind": kind, "width": width, "depth": depth}
    return [f"    text_decoder: {_flow(size)}"] if TASKS[proposal.task].CODES else []


def code_text(proposal: Proposal, path: Path) -> str:
    """A module to fill in: two networks that already take the manifest's modalities, and a dataset."""
    names = list(proposal.modalities)
    return _CODE.substitute(
        recipe=path.name,
        sizes=repr(_sizes(proposal)),
        count=len(names),
        arguments=", ".join(names),
        inputs=", ".join(f'"{name}": {name}' for name in names),
        cells=", ".join(f'"{name}": row["{name}"]' for name in names),
        target=repr(proposal.target),
        outputs=proposal.classes if TASKS[proposal.task].LABELS else 1,
    )


def _sizes(proposal: Proposal) -> dict[str, int]:
    """Values a modality's tensor has, as far as the manifest tells."""
    distinct = {column.name: column.distinct for column in proposal.columns}
    return {
        name: len(spec.columns) + sum(1 + distinct[column] for column in spec.categorical)
        if isinstance(spec, TabularSpec)
        else math.prod(spec.shape)
        for name, spec in proposal.modalities.items()
    }


def _plain(text: str) -> str:
    """A YAML scalar; quoted where it would not be read as the same string."""
    simple = text.replace("-", "").replace("_", "").replace(".", "").replace("/", "")
    return (
        text
        if simple.isalnum()
        and simple.isascii()
        and simple[:1].isalpha()
        and text[:1] not in "-./"
        and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
        else json.dumps(text, ensure_ascii=False)
    )


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _plain(value) if isinstance(value, str) else json.dumps(value)
