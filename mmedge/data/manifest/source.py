"""From a recipe's ``data`` section to ``DIR/data/{train,validation,test}.csv``: manifests of raw files and values."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge import tasks
from mmedge.artifact import replacing
from mmedge.data.builtin import avdigits
from mmedge.data.manifest import align, shards, splits
from mmedge.data.manifest.faults import column_faults, columns_of, id_faults, split_name_faults
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.manifest.table import read_table
from mmedge.data.manifest.targets import joined, listed, strata, written_columns
from mmedge.data.wav import write_wav
from mmedge.errors import MmedgeError, UsageError, did_you_mean, refuse
from mmedge.progress import Progress
from mmedge.recipe import Data, Redact
from mmedge.recipe.code import load_attribute
from mmedge.report.arranged import AlignmentRecord, ArrangedRecord
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, SensorSpec, TabularSpec, TextSpec

# Columns of an arranged manifest that no user's column can be mistaken for.
ROW, SPLIT = "__row", "__split"


def write_manifests(data: Data, folder: Path, *, seed: int, code: Path, progress: Progress) -> ArrangedRecord:
    """Write the three manifests (and, for built datasets, the raw files) into ``folder``; returns what was done.

    ``code`` is the folder that ``module:build`` is imported from. Columns: ``id``, the modalities' columns, the target,
    and ``group`` where one is named. Paths are absolute, or relative to ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alignments: list[AlignmentRecord] = []
    cut: list[str] = []
    if data.dataset == "avdigits":
        rows = avdigits.build(folder, seed=seed, recordings=data.recordings, progress=progress.step)
        tables = {split: polars.DataFrame(rows[split]) for split in SPLITS}
    elif data.dataset is not None:
        build = load_attribute(data.dataset, code, "dataset")
        tables = {split: _from_dataset(build, split, data, folder, progress) for split in SPLITS}
    else:
        assert data.manifest is not None
        table, alignments = arranged(data, seed)
        tables = {split: table.filter(polars.col(SPLIT) == split).drop(ROW, SPLIT) for split in SPLITS}
        cut = [fault.what for fault in shards.faults(data.manifest, data.unreadable)]
        for told in (*cut, *map(str, alignments)):
            progress.say(told)
    total = sum(table.height for table in tables.values())
    tables = {split: with_something(table, data) if table.height else table for split, table in tables.items()}
    left_out = total - sum(table.height for table in tables.values())
    if left_out:
        progress.say(f"data: {left_out} of {total} rows hold no modality at all and are left out")
    for split, table in tables.items():
        if table.is_empty():
            what, todo = empty_split(split, tables.values(), data)
            raise MmedgeError(what, where=str(data.manifest or data.dataset), todo=todo)
        with replacing(folder / f"{split}.csv") as temporary:
            table.write_csv(temporary)
        (folder / f"{split}.csv").chmod(0o600)
    facts = {"left_out": left_out, "align": alignments, "cut_shards": cut}
    return ArrangedRecord().model_copy(update={name: fact for name, fact in facts.items() if fact})


def arranged(data: Data, seed: int) -> tuple[polars.DataFrame, list[AlignmentRecord]]:
    """The user's manifest as one table: redacted, aligned, and every row in a split.

    Columns: ``__row`` (from 1, in the user's file), ``id``, the modalities' (paths absolute), the target, ``group``
    where one is named, ``__split``. Raises MmedgeError where a column is missing, ids are not unique or a split is
    unknown.
    """
    assert data.manifest is not None
    refuse(shards.faults(data.manifest, data.unreadable))
    table = read_table(data.manifest)
    if data.redact:
        table = redacted(table, data.redact, data.manifest)
    files = {columns_of(name, spec)[0] for name, spec in data.modalities.items() if spec.reads_file}
    files |= {column for head, column in data.target_columns.items() if tasks.of(data.heads[head]).FILES}
    folder = str(data.manifest.resolve().parent)
    table = table.with_columns(_absolute(column, folder) for column in files if column in table.columns)
    alignments = []
    for name, stream in data.align.items():
        table, alignment = align.join(table, name, stream, files, read_table)
        alignments.append(alignment)
    refuse(column_faults(table, data), UsageError)
    refuse([*id_faults(table, data), *split_name_faults(table, data)])
    if data.label_columns:
        table = table.with_columns(joined(table, data.label_columns, str(data.manifest)).alias(str(data.target or "")))
    several = {data.target_columns[head]: parts for head, parts in data.target_parts.items() if len(parts) > 1}
    table = table.with_columns(**{name: listed(table, parts) for name, parts in several.items()})
    ids = table[data.id] if data.id else polars.Series([f"row-{number}" for number in range(1, table.height + 1)])
    kept = [column for name, spec in data.modalities.items() for column in columns_of(name, spec)]
    columns: dict[str, polars.Expr] = {column: polars.col(column) for column in kept}
    # One label however its accents are composed; paths are left as the file system spells them.
    targets = written_columns(data)
    columns |= {targets[head]: polars.col(column).str.normalize("NFC") for head, column in data.target_columns.items()}
    if data.group:  # a row of no group is a group of its own
        columns["group"] = polars.coalesce(data.group, ids.alias("id")).alias("group")
    out = table.select(polars.int_range(1, table.height + 1).alias(ROW), ids.alias("id"), **columns)
    out = out.with_columns(_split(table, out, data, seed).alias(SPLIT))
    if not data.split and not data.group:  # the same sample twice is one unit: it must not teach and judge
        together = out.with_columns(polars.col(SPLIT).first().over([c for c in columns if c not in targets.values()]))
        if together[SPLIT].n_unique() == out[SPLIT].n_unique():
            out = together
    return out, alignments


def redacted(table: polars.DataFrame, redact: Redact, where: Path) -> polars.DataFrame:
    """The table without the columns to drop, and with keyed hashes (HMAC-SHA256, 16 hex digits) in those to hash.

    Raises MmedgeError where a column is not there, or the environment variable of the key is not set.
    """
    for key, columns in (("drop", redact.drop), ("hash", redact.hash)):
        for column in columns:
            _require_column(table, column, f"data.redact.{key}", where)
    table = table.drop(redact.drop)
    if not redact.hash:
        return table
    secret = os.environ.get(redact.key, "")
    if not secret:
        raise MmedgeError(
            f"columns are to be hashed, and the environment variable {redact.key} holds no key",
            where="data.redact.hash",
            todo=f"export {redact.key}=… (a long random text; keep it, or ids cannot be matched again)",
        )

    def hashed(cell: str) -> str:
        return hmac.new(secret.encode(), cell.encode(), hashlib.sha256).hexdigest()[:16]

    return table.with_columns(polars.col(c).map_elements(hashed, return_dtype=polars.String) for c in redact.hash)


def _absolute(column: str, folder: str) -> polars.Expr:
    """Paths as they are from everywhere; a list of numbers is none."""
    cell = polars.col(column)
    return polars.when(cell.str.contains("^[/\\[]")).then(cell).otherwise(polars.lit(folder + "/") + cell).alias(column)


def _require_column(table: polars.DataFrame, column: str | None, key: str, manifest: Path) -> None:
    if column is not None and column not in table.columns:
        raise UsageError(
            f"no column {column!r}{did_you_mean(column, table.columns)}; there are {', '.join(table.columns)}",
            where=f"{manifest}, named by {key}",
        )


def present(name: str, spec: ModalitySpec) -> polars.Expr:
    """Whether a row has the modality: any cell of a table's columns, the first one (path or text) elsewhere."""
    columns = columns_of(name, spec) if isinstance(spec, TabularSpec) else columns_of(name, spec)[:1]
    return polars.any_horizontal(polars.col(column).is_not_null() for column in columns)


def with_something(table: polars.DataFrame, data: Data) -> polars.DataFrame:
    """The rows that have at least one modality: of the others there is nothing to learn, and nothing to predict from."""
    return table.filter(polars.any_horizontal(present(name, spec) for name, spec in data.modalities.items()))


def place(data: Data, seed: int, sample: str, column: str | None) -> str:
    """Where a sample stands in the user's own table: file, row and column. Computed again, since only errors ask."""
    parts = [f"column {column}"] if column else []
    if data.manifest is None or data.id:
        parts.append(f"sample {sample}")
    if data.manifest is not None:
        try:
            rows = arranged(data, seed)[0].filter(polars.col("id") == sample)[ROW]
            parts = [str(data.manifest), *(f"row {row}" for row in rows), *parts]
        except MmedgeError:  # the table has changed since
            parts = [str(data.manifest), f"sample {sample}", *parts]
    return ", ".join(parts)


def empty_split(split: str, tables: Iterable[polars.DataFrame], data: Data) -> tuple[str, str]:
    """Why a split holds nothing, and what to do. ``tables``: all rows that there are."""
    columns = written_columns(data).values()
    if any(
        column not in table.columns or table[column].null_count() < table.height
        for table in tables
        for column in columns
    ):
        return f"the {split} split is empty", "correct data.split or data.ratios, or add rows"
    return (
        f"no row has a label, and the {split} split is of labelled rows: what is kept is judged by them",
        f"label some rows in column {', '.join(map(repr, columns))}; the training split may stay without any (distill.labels: none)",
    )


def _split(table: polars.DataFrame, out: polars.DataFrame, data: Data, seed: int) -> polars.Series:
    """The split of each row: by column, fold or ratios. Where the column knows no validation, it is drawn from training."""
    labels = np.array(strata(data, out), dtype=object).astype(str)
    groups = out["group"].to_numpy() if data.group else None
    shares = [data.ratios[split] for split in SPLITS]  # type: ignore[index]
    validation = shares[1] / (shares[0] + shares[1])
    if data.fold:
        chosen = splits.by_fold(labels, groups, data.fold, validation, seed)
    elif not data.split:
        chosen = splits.by_ratio(labels, groups, shares, seed)
    else:
        assert data.manifest is not None
        spoken = table[data.split].str.strip_chars().str.to_lowercase()
        named = spoken.replace_strict(splits.SPELLINGS, default=None, return_dtype=polars.String)
        if (named == "validation").any():
            return named
        rows = np.flatnonzero((named == "train").to_numpy())
        inner = splits.by_ratio(
            labels[rows], None if groups is None else groups[rows], [1 - validation, validation], seed
        )
        chosen = np.full(table.height, 2, np.int64)
        chosen[rows] = inner
    return polars.Series(np.array(SPLITS, dtype=object)[chosen].tolist(), dtype=polars.String)


def _from_dataset(
    build: Callable[..., Any], split: str, data: Data, folder: Path, progress: Progress
) -> polars.DataFrame:
    """Rows of a user's map-style dataset: ``build(split, **args)[i] -> {modality: path or array, target: ..., id?, group?}``."""
    dataset = build(split, **data.args)
    rows: list[dict[str, str | None]] = []
    for index in range(len(dataset)):
        item: Mapping[str, Any] = dataset[index]
        name = str(item.get("id", f"{split}-{index}"))
        row: dict[str, str | None] = {"id": name}
        for modality, spec in data.modalities.items():
            row.update(_cells(modality, spec, item.get(modality), folder, f"{split}-{index}", name))
        written = written_columns(data)
        for head, parts in data.target_parts.items():
            several = [item.get(column) for column in parts]
            value = several[0] if len(parts) == 1 else np.array(several, np.float64)
            of_file = tasks.of(data.heads[head]).FILES and value is not None
            row[written[head]] = _array_cell(head, value, folder, f"{split}-{index}") if of_file else target_cell(value)
        if data.group:
            row["group"] = str(item.get(data.group, name))
        rows.append(row)
        progress.step(f"writing {split}", index + 1, len(dataset))
    return polars.DataFrame(rows, infer_schema_length=None)


def _array_cell(head: str, value: Any, folder: Path, stem: str) -> str:
    """The path of a target's array, written where it is given as one."""
    if isinstance(value, (str, Path)):
        return str(Path(value).resolve())
    path = folder / "targets" / head / f"{stem}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(value))
    return path.relative_to(folder).as_posix()


def target_cell(target: Any) -> str | None:
    """A dataset's target as a cell; several labels, or numbers, as a JSON list."""
    if isinstance(target, np.ndarray) and target.ndim and target.dtype.kind in "fiu":
        return json.dumps(target.tolist()).replace("NaN", "null")
    if isinstance(target, (list, tuple, set, frozenset)):
        return json.dumps([str(label) for label in target], ensure_ascii=False)
    return None if target is None else unicodedata.normalize("NFC", str(target))


def _cells(
    modality: str, spec: ModalitySpec, value: Any, folder: Path, stem: str, sample: str
) -> dict[str, str | None]:
    columns = columns_of(modality, spec)
    if value is None:
        return dict.fromkeys(columns)
    if isinstance(spec, TabularSpec):
        values = [value[column] for column in columns] if isinstance(value, Mapping) else list(value)
        if len(values) != len(columns):
            raise MmedgeError(
                f"{modality} has {len(values)} values for {len(columns)} columns", where=f"sample {sample}"
            )
        return {column: None if cell is None else str(cell) for column, cell in zip(columns, values)}
    if isinstance(spec, TextSpec):
        return {columns[0]: str(value)}
    if isinstance(spec, ImageSpec) and spec.box:
        value, box = value if isinstance(value, tuple) else (value, (None,) * 4)
        edges = {column: None if edge is None else str(edge) for column, edge in zip(spec.columns_read[1:], box)}
        return _cells(modality, spec.model_copy(update={"box": None}), value, folder, stem, sample) | edges
    if isinstance(value, (str, Path)):
        return {columns[0]: str(Path(value).resolve())}
    path = folder / modality / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    match spec:
        case ImageSpec() if np.asarray(value).dtype == np.uint8:
            from PIL import Image

            Image.fromarray(np.asarray(value).squeeze()).save(path := path.with_suffix(".png"))
        case AudioSpec():
            samples, rate = value if isinstance(value, tuple) else (value, spec.sample_rate)
            write_wav(path := path.with_suffix(".wav"), np.asarray(samples, np.float32), rate, "FLOAT")
        case ImageSpec():
            raise MmedgeError(
                f"{modality} must be uint8 pixels, not {np.asarray(value).dtype}", where=f"sample {sample}"
            )
        case SensorSpec() if isinstance(value, tuple):
            raise MmedgeError(
                f"{modality} must be an array [channels, time]; its rate is the recipe's source_rate",
                where=f"sample {sample}",
            )
        case _:
            np.save(path := path.with_suffix(".npy"), np.asarray(value, spec.dtype))
    return {columns[0]: path.relative_to(folder).as_posix()}
