"""From a recipe's ``data`` section to ``DIR/data/{train,validation,test}.csv``: manifests of raw files and values."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge.artifact import replacing
from mmedge.data import avdigits
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.progress import Progress
from mmedge.recipe import Data
from mmedge.spec import AudioSpec, ImageSpec, ModalitySpec, TabularSpec

SPLITS = ("train", "validation", "test")
# Columns of the written manifests that are mmedge's own.
_OWN_COLUMNS = ("id", "group", "source")


def write_manifests(data: Data, folder: Path, *, seed: int, code: Path, progress: Progress) -> None:
    """Write the three manifests (and, for built datasets, the raw files) into ``folder``.

    ``code`` is the folder that ``module:build`` is imported from. Columns: ``id``, the modalities' columns, the target,
    and ``group`` where one is named. Paths are absolute, or relative to ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if data.dataset == "avdigits":
        rows = avdigits.build(folder, seed=seed, recordings=data.recordings, progress=progress.step)
        tables = {split: polars.DataFrame(rows[split]) for split in SPLITS}
    elif data.dataset is not None:
        build = load_attribute(data.dataset, code)
        tables = {split: _from_dataset(build, split, data, folder, progress) for split in SPLITS}
    else:
        assert data.manifest is not None
        tables = _from_table(read_table(data.manifest), data, seed)
    for split, table in tables.items():
        if table.is_empty():
            raise MmedgeError(
                f"the {split} split is empty",
                where=str(data.manifest or data.dataset),
                todo="correct data.split or data.ratios, or add rows",
            )
        with replacing(folder / f"{split}.csv") as temporary:
            table.write_csv(temporary)


def load_attribute(name: str, folder: Path) -> Any:
    """The object that ``module:attribute`` names, imported from the recipe's folder or the environment."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UsageError(
                f"no module {module_name!r}",
                where=name,
                todo=f"put {module_name}.py beside the recipe ({folder}), or install it",
            ) from error
        raise
    finally:
        sys.path.remove(str(folder))
    if not hasattr(module, attribute):
        raise UsageError(
            f"module {module_name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}", where=name
        )
    return getattr(module, attribute)


def read_table(path: Path) -> polars.DataFrame:
    """A CSV, JSONL or Parquet file as a table of strings; empty cells are null."""
    if not path.is_file():
        raise MmedgeError("the manifest does not exist", where=str(path), todo="correct data.manifest")
    try:
        match path.suffix.lower():
            case ".parquet":
                table = polars.read_parquet(path)
            case ".jsonl" | ".ndjson":
                table = polars.read_ndjson(path, infer_schema_length=None)
            case _:
                table = polars.read_csv(
                    path, infer_schema=False, separator="\t" if path.suffix.lower() == ".tsv" else ","
                )
    except (polars.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise MmedgeError(f"the manifest cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
    table = table.select(polars.all().cast(polars.String).replace("", None))
    if table.is_empty():
        raise MmedgeError("the manifest has no rows", where=str(path))
    return table


def _from_table(table: polars.DataFrame, data: Data, seed: int) -> dict[str, polars.DataFrame]:
    assert data.manifest is not None
    needed = {"data.target": data.target, "data.id": data.id, "data.group": data.group, "data.split": data.split}
    for key, column in needed.items():
        _require_column(table, column, key, data.manifest)
    for name, spec in data.modalities.items():
        for column in spec.columns_read or (name,):
            _require_column(table, column, f"data.modalities.{name}", data.manifest)
    folder = data.manifest.parent
    paths = [columns_of(name, spec)[0] for name, spec in data.modalities.items() if not isinstance(spec, TabularSpec)]
    table = table.with_columns(
        polars.col(column).map_elements(lambda cell: str((folder / cell).resolve()), return_dtype=polars.String)
        for column in paths
    )
    ids = table[data.id] if data.id else polars.Series([f"row-{number}" for number in range(1, table.height + 1)])
    if ids.n_unique() != table.height or ids.null_count():
        raise MmedgeError(
            "the sample ids are not unique, or some are empty", where=f"{data.manifest}, column {data.id}"
        )
    kept = [column for name, spec in data.modalities.items() for column in columns_of(name, spec)]
    out = table.select(
        ids.alias("id"),
        *[polars.col(column) for column in dict.fromkeys(kept)],
        polars.col(data.target).alias(target_column(data)),
        *([polars.col(data.group).alias("group")] if data.group else []),
    )
    split = table[data.split] if data.split else _split(out, data, seed)
    if data.split:
        split = split.replace({"val": "validation", "valid": "validation", "dev": "validation"})
        unknown = sorted({value for value in split if value not in SPLITS}, key=str)
        if unknown:
            raise MmedgeError(
                f"unknown split {unknown[0]!r}",
                where=f"{data.manifest}, column {data.split}",
                todo=f"use {', '.join(SPLITS)}",
            )
    return {name: out.filter(split == name) for name in SPLITS}


def _require_column(table: polars.DataFrame, column: str | None, key: str, manifest: Path) -> None:
    if column is not None and column not in table.columns:
        raise MmedgeError(
            f"no column {column!r}{did_you_mean(column, table.columns)}; there are {', '.join(table.columns)}",
            where=f"{manifest}, named by {key}",
        )


def columns_of(name: str, spec: ModalitySpec) -> tuple[str, ...]:
    """The manifest columns that a modality reads; its own name where the recipe names none."""
    return spec.columns_read or (name,)


def target_column(data: Data) -> str:
    """The column of the written manifests that holds the target; a name that mmedge uses itself gets an underscore."""
    return f"{data.target}_" if data.target in _OWN_COLUMNS else data.target


def _split(table: polars.DataFrame, data: Data, seed: int) -> polars.Series:
    """Seeded split by ``ratios``: whole groups where there are groups, else stratified by the target."""
    rng = np.random.default_rng(seed)
    assigned = np.empty(table.height, object)
    shares = np.array([data.ratios[split] for split in SPLITS])  # type: ignore[index]
    if data.group:
        groups = table["group"].fill_null("").to_numpy()
        units = [np.flatnonzero(groups == group) for group in rng.permutation(np.unique(groups))]
        strata = [units]
    elif data.task == "classification":
        labels = table[target_column(data)].fill_null("").to_numpy()
        strata = [
            [np.array([row]) for row in rng.permutation(np.flatnonzero(labels == label))] for label in np.unique(labels)
        ]
    else:
        strata = [[np.array([row]) for row in rng.permutation(table.height)]]
    for units in strata:
        counts = np.zeros(len(SPLITS))
        for unit in units:  # each unit goes where most is still missing
            chosen = int(np.argmax(shares * (counts.sum() + len(unit)) - counts))
            counts[chosen] += len(unit)
            assigned[unit] = SPLITS[chosen]
    return polars.Series(assigned.tolist())


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
        target = item.get(data.target)
        row[target_column(data)] = None if target is None else str(target)
        if data.group:
            row["group"] = str(item.get(data.group, name))
        rows.append(row)
        progress.step(f"writing {split}", index + 1, len(dataset))
    return polars.DataFrame(rows, infer_schema_length=None)


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
    if isinstance(value, (str, Path)):
        return {columns[0]: str(Path(value).resolve())}
    path = folder / modality / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    match spec:
        case ImageSpec() if np.asarray(value).dtype == np.uint8:
            from PIL import Image

            Image.fromarray(np.asarray(value).squeeze()).save(path := path.with_suffix(".png"))
        case AudioSpec():
            import soundfile

            samples, rate = value if isinstance(value, tuple) else (value, spec.sample_rate)
            soundfile.write(path := path.with_suffix(".wav"), np.asarray(samples, np.float32), rate, subtype="FLOAT")
        case ImageSpec():
            raise MmedgeError(
                f"{modality} must be uint8 pixels, not {np.asarray(value).dtype}", where=f"sample {sample}"
            )
        case _:
            np.save(path := path.with_suffix(".npy"), np.asarray(value, np.float32))
    return {columns[0]: path.relative_to(folder).as_posix()}
