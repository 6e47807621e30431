"""Looks at a recipe's data and models before anything is trained, and tells all faults at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge import tasks, tracking
from mmedge.contract import Contract
from mmedge.data.card import split_card
from mmedge.data.checks import table_faults
from mmedge.data.checks.cells import empty_rows
from mmedge.data.checks.decoding import files_of
from mmedge.data.checks.manifest import manifest_faults, missing_files
from mmedge.data.checks.media import media_faults
from mmedge.data.checks.splits import forgotten_groups
from mmedge.data.manifest.source import ROW, SPLIT, arranged, present, with_something
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.manifest.table import read_table
from mmedge.data.manifest.targets import cells_of, labelled
from mmedge.data.store.folder import held, private
from mmedge.data.store.room import refuse_small_disk, store_bytes
from mmedge.data.store.rows import evenly
from mmedge.data.store.samples import Samples, heads_of, manifests
from mmedge.errors import Fault, MissingDependency, MmedgeError
from mmedge.models import load
from mmedge.models.traps import traps
from mmedge.pipeline import judgeable
from mmedge.pipeline.brought import brought_faults, with_preprocessing
from mmedge.pipeline.proposing import with_student
from mmedge.progress import Progress
from mmedge.recipe import Data, Model, Recipe, TeacherConfig, computes_int8
from mmedge.recipe.code import load_attribute
from mmedge.report.arranged import AlignmentRecord
from mmedge.report.checked import Card, FilesRecord, SoundFacts, TextFacts
from mmedge.spec import ModalitySpec
from mmedge.stages.ignored import ignored_faults
from mmedge.stages.quantize.calibration import MOST, calibration_rows
from mmedge.stages.trial import trial, try_export
from mmedge.tasks import Head
from mmedge.training.faults import own_contract, teaching_faults
from mmedge.training.privacy import budget_faults, network_faults

# Rows of a stream whose files are opened.
_LOOKED_AT = 2000
# Bytes of decoded samples from which on it is told what their files come to.
_LARGE = 1 << 30

Cells = dict[str, dict[str, list[str | None]]]


def check(recipe: Recipe, out: Path, *, code: Path, progress: Progress, media: bool = True) -> Card:
    """The data card, with all faults; raises none of them.

    ``media`` False: the table alone is looked at, no file that it names is opened. ``out``: where a built-in or user's
    dataset writes its files, as in a run.
    """
    found: list[Fault] = list(brought_faults(recipe))
    if not any(fault.severity == "error" for fault in found):
        recipe = with_preprocessing(recipe)[0]
    card = Card(recipe=recipe.name, source=_source(recipe))
    specs: dict[str, ModalitySpec] = dict(recipe.data.modalities)
    # Where the data does not tell the classes, some stand in for them.
    told = {name: tasks.of(target).head((), target) for name, target in recipe.data.heads.items()}
    heads = {name: head if _wide(head) else tasks.of(head).stand_in() for name, head in told.items()}
    table, file, folder, notes = _table(recipe, out, code, progress, found)
    if table is not None:
        card = card.model_copy(update={"align": notes} if notes else {})
        given, table = table, with_something(table, recipe.data)  # as a run does
        found += [
            *empty_rows(given, table, file),
            *table_faults(table, recipe.data, file, learns_labels=recipe.learns_labels),
        ]
        for name, spec in recipe.data.modalities.items():
            if spec.reads_file:
                progress.say(f"check: looking for the files of {name}")
                found += missing_files(table, name, spec, folder, file)
        kept = {
            name: spec for name, spec in recipe.data.modalities.items() if not (recipe.data.stream and spec.reads_file)
        }
        store = store_bytes(kept, table.height)
        card = card.model_copy(update={"store": store})
        if media:
            card = card.model_copy(update={"files": _files(recipe.data, table, folder, store) or None})
            more, facts, fitted = _media(table, recipe.data, folder, file, out, progress)
            found += more
            specs |= fitted
            card = card.model_copy(update={"media": facts})
        tables = {split: table.filter(polars.col(SPLIT) == split) for split in SPLITS}
        cells = cells_of(recipe.data, tables, folder)
        heads = {name: head if _wide(head) else heads[name] for name, head in heads_of(recipe.data, cells).items()}
        splits = {
            split: split_card(tables[split], {name: each[split] for name, each in cells.items()}, recipe.data)
            for split in SPLITS
        }
        card = card.model_copy(update={"labels": _labels(recipe, cells), "splits": splits})
        found += _calibration(recipe, table, found, file)
        judges = [judgeable.Judged(split, *_judging(tables[split], recipe.data)) for split in ("validation", "test")]
        card = card.model_copy(update={"power": judgeable.power(recipe, *judges)})
        found += [*_gates(recipe, tables, cells, heads), *judgeable.weak(recipe, *judges)]
    card = card.model_copy(update={"modalities": {name: list(spec.shape) for name, spec in specs.items()}})
    ids = {} if table is None else {split: tuple(table.filter(polars.col(SPLIT) == split)["id"]) for split in SPLITS}
    progress.say("check: building the models")
    found += _of_models(recipe, Contract(modalities=specs, heads=heads), card, ids, out, code, progress)
    once = dict.fromkeys(found)  # a teacher's folder is opened for its preprocessing and for its network
    return card.with_faults(sorted(once, key=lambda fault: fault.severity))  # errors first, otherwise in order


def _of_models(
    recipe: Recipe,
    whole: Contract,
    card: Card,
    ids: Mapping[str, tuple[str, ...]],
    out: Path,
    code: Path,
    progress: Progress,
) -> Iterator[Fault]:
    """The faults of networks, teachers and what they are trained by. ``ids``: {split: its samples'}, {} without a table."""
    factory = partial(_factory, code=code)
    try:
        recipe = with_student(recipe, whole, out / ".work", factory, progress)
    except MmedgeError as error:
        yield Fault.of(error, "budget")
    yield from _model_faults(recipe, whole, code)
    yield from _left_aside(recipe)
    train = card.splits["train"] if card.splits else None
    if train is not None:
        yield from budget_faults(recipe, train.samples, train.labelled)
    yield from network_faults(recipe, whole, factory)
    yield from teaching_faults(recipe, whole, ids, None if train is None else train.labelled, factory)
    yield from ignored_faults(recipe, whole, factory)


def _media(
    table: polars.DataFrame, data: Data, folder: Path, file: str, out: Path, progress: Progress
) -> tuple[list[Fault], dict[str, TextFacts | SoundFacts], dict[str, ModalitySpec]]:
    """``media_faults`` by what a run finds decoded; where the disk has no room for it, that alone."""
    cache = out / ".work" / "tensors"
    if data.stream:  # what is not decoded ahead is looked at here and there
        table = table[evenly(table.height, _LOOKED_AT)]
    there = sum(one.stat().st_size for one in cache.glob("*/*.npy"))
    try:
        refuse_small_disk(sum(store_bytes(data.modalities, table.height).values()), cache, there)
    except MmedgeError as error:
        return [Fault.of(error, "disk")], {}, {}
    with held(out):
        private(cache)
        return media_faults(table, data, folder, file, cache, progress)


def _files(data: Data, table: polars.DataFrame, folder: Path, store: Mapping[str, int]) -> dict[str, FilesRecord]:
    """The files of modalities whose samples are not kept, or would take much: which of both is better, a user can tell then."""
    found = {}
    for name, spec in data.modalities.items():
        if spec.reads_file and store.get(name, _LARGE) >= _LARGE and (of := files_of(name, spec, table, folder)):
            found[name] = of
    return found


def _left_aside(recipe: Recipe) -> Iterator[Fault]:
    """What follows the run and is not installed, and keys that mean nothing here."""
    for tracker in recipe.trackers:
        try:
            tracking.require(tracker)
        except MissingDependency as error:
            yield Fault.of(error, "dependency")
    for key, why in recipe.export.unheeded.items():
        yield Fault("warning", "unheeded", f"{key}: {why}", todo="leave it out")


def _source(recipe: Recipe) -> str:
    return recipe.data.dataset or str(recipe.data.manifest and recipe.data.manifest.name)


def _table(
    recipe: Recipe, out: Path, code: Path, progress: Progress, found: list[Fault]
) -> tuple[polars.DataFrame | None, str, Path, list[AlignmentRecord]]:
    """The arranged table, the file that rows are counted in, the folder of its relative paths, and how streams aligned."""
    data = recipe.data
    if data.manifest is None:
        folder = out / "data"
        try:
            manifests(recipe, folder, code=code, progress=progress)
            parts = [
                read_table(folder / f"{split}.csv")
                .with_row_index(ROW, offset=1)
                .with_columns(polars.lit(split).alias(SPLIT))
                for split in SPLITS
            ]
            return polars.concat(parts, how="diagonal"), str(folder / "{train,validation,test}.csv"), folder, []
        except MmedgeError as error:
            found.append(Fault.of(error, "dataset"))
        except Exception as error:  # a user's dataset may raise anything
            what = f"the dataset fails: {type(error).__name__}: {error}"
            found.append(
                Fault("error", "dataset", what, str(data.dataset), todo="--debug of mmedge train shows the traceback")
            )
        return None, "", folder, []
    faults, usable = manifest_faults(data)
    found += faults
    if usable is not None:
        try:
            table, alignments = arranged(usable, recipe.seed)
            found += forgotten_groups(read_table(data.manifest), table, data, str(data.manifest))
            return table, str(data.manifest), data.manifest.resolve().parent, alignments
        except MmedgeError as error:
            found.append(Fault.of(error, "manifest"))
    return None, str(data.manifest), data.manifest.parent, []


def _wide(head: Head) -> bool:
    """Whether the data told enough of a head for a model to have it."""
    return len(head.labels) > 1 if tasks.of(head).LABELS else tasks.of(head).width(head) > 0


def _labels(recipe: Recipe, cells: Cells) -> list[str] | dict[str, list[str]]:
    """The labels in their order, of the one head; of several {head: its labels}."""
    found = {name: list(head.labels) for name, head in heads_of(recipe.data, cells).items()}
    return found if len(found) > 1 else next(iter(found.values()))


def _judging(table: polars.DataFrame, data: Data) -> tuple[int, int]:
    """(labelled rows, independent groups of them)."""
    known = table.filter(labelled(data))
    return known.height, known["group"].n_unique() if "group" in known.columns else known.height


def _gates(recipe: Recipe, tables: dict[str, polars.DataFrame], cells: Cells, heads: dict[str, Head]) -> list[Fault]:
    """Gates that the test split has nothing to judge by; none where the classes are not known, which is told elsewhere."""
    if not all(map(_wide, heads_of(recipe.data, cells).values())):
        return []
    test, wanted = tables["test"], recipe.data.heads
    targets = {name: tasks.of(head).targets(cells[name]["test"], head, wanted[name]) for name, head in heads.items()}
    there = {
        name: test.select(present(name, spec).alias("x"))["x"].to_numpy().astype(bool)
        for name, spec in recipe.data.modalities.items()
    }
    learnt = bool(tables["train"].select(labelled(recipe.data).sum()).item())
    return list(judgeable.unjudgeable(recipe, heads, targets, there, learnt=learnt))


def _calibration(recipe: Recipe, table: polars.DataFrame, found: list[Fault], file: str) -> list[Fault]:
    """Training samples that INT8 would be calibrated on and whose content is also in the test split."""
    if recipe.quantize is None or not any(computes_int8(name) for name in recipe.quantize.candidates):
        return []
    shared = {
        fault.row for fault in found if fault.kind == "duplicate" and fault.severity == "error" and "test" in fault.what
    }
    if not shared:
        return []
    train = table.filter(polars.col(SPLIT) == "train")
    cells = cells_of(recipe.data, {"train": train}, Path(file).parent)
    heads = heads_of(recipe.data, cells)
    targets = {
        name: tasks.of(head).targets(cells[name]["train"], head, recipe.data.heads[name])
        for name, head in heads.items()
    }
    rows = np.arange(train.height)
    drawn = calibration_rows(
        Samples("train", tuple(train["id"]), {}, np.ones((train.height, 0), bool), targets, rows, heads),
        recipe.quantize.calibration or MOST,
        recipe.seed,
    )
    overlap = sorted(row for row in train[ROW].gather(drawn.tolist()) if row in shared)
    return [
        Fault(
            "error",
            "calibration-overlap",
            "a calibration sample is also in the test split: quantization would be tuned on what judges it",
            file,
            row,
            todo="remove the duplicate",
        )
        for row in overlap
    ]


def _factory(section: Model, code: Path) -> Any:
    return load_attribute(section.factory, code) if section.factory else None


def _model_faults(recipe: Recipe, whole: Contract, code: Path) -> list[Fault]:
    """The traps of both models."""
    faults: list[Fault] = []
    if not recipe.teacher.onnx and not recipe.teacher.outputs:
        faults += _traps(
            recipe.teacher.model,
            own_contract(recipe.teacher, whole),
            "teacher.model",
            code,
            trains=recipe.teacher.train is not None,
            exported=recipe.teacher.export,
        )
    if recipe.distill:
        student = TeacherConfig(model=recipe.distill.model)
        faults += _traps(student.model, own_contract(student, whole), "distill.model", code)
    return faults


def _traps(
    section: Model, contract: Contract, where: str, code: Path, *, trains: bool = True, exported: bool = True
) -> list[Fault]:
    try:
        factory = _factory(section, code)
    except MmedgeError as error:
        return [Fault.of(error, "model", module=where)]
    except Exception as error:  # importing a user's module may raise anything
        return [
            Fault(
                "error", "model", f"{section.factory} cannot be imported: {type(error).__name__}: {error}", module=where
            )
        ]
    found = traps(section, contract, factory, where)
    if section.foreign and all(fault.severity != "error" for fault in found):
        kind = "model"
        try:
            make = partial(load.build, section, contract, factory=factory, fresh=True)
            module = trial(make, contract, where, trains=trains)
            kind = "export"
            if exported:
                try_export(module, contract, where)
        except MmedgeError as error:
            found.append(Fault.of(error, kind, module=error.where, file=None))
    return found
