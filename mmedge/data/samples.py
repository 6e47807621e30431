"""From manifests to arrays: every sample decoded and preprocessed once, by the runtime's own code, into mapped files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars

from mmedge.artifact import hash_json, sha256_of, write_json
from mmedge.data.decode import Job, decode, value_of
from mmedge.data.source import columns_of, load_attribute, read_table, target_column, write_manifests
from mmedge.data.splits import SPLITS
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.progress import Progress
from mmedge.recipe import Data, Recipe
from mmedge.runtime import preprocess
from mmedge.spec import Contract, ModalitySpec, TabularSpec, TextSpec


@dataclass(frozen=True)
class Samples:
    """One split. N samples, M modalities in the contract's order.

    ``inputs``: {modality: [N, *shape] of the spec's dtype}; ``present``: bool [N, M]; ``targets``: int64 [N] (class, -1 where
    unlabelled) or float32 [N] (NaN where unlabelled); ``groups``: int64 [N], the independent unit of each sample.
    """

    split: str
    ids: tuple[str, ...]
    inputs: dict[str, np.ndarray]
    present: np.ndarray
    targets: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> np.ndarray:
        """bool [N]."""
        known: np.ndarray = self.targets >= 0 if self.targets.dtype.kind == "i" else ~np.isnan(self.targets)
        return known

    def only(self, modalities: Sequence[str]) -> Samples:
        """The same samples with some of the modalities, for a model that takes fewer."""
        chosen = [index for index, name in enumerate(self.inputs) if name in modalities]
        return replace(
            self,
            inputs={name: x for name, x in self.inputs.items() if name in modalities},
            present=self.present[:, chosen],
        )

    def taken(self, rows: np.ndarray) -> Samples:
        """The samples of some rows (int64), in that order."""
        return Samples(
            self.split,
            tuple(self.ids[row] for row in rows),
            {name: x[rows] for name, x in self.inputs.items()},
            self.present[rows],
            self.targets[rows],
            self.groups[rows],
        )

    def with_labels(self, count: int, seed: int) -> Samples:
        """The same samples with all but ``count`` labels hidden, spread evenly over the classes and drawn by ``seed``."""
        known = np.flatnonzero(self.labelled)
        if count > len(known):
            raise MmedgeError(
                f"{count} labels are asked for, the training split has {len(known)}", where="distill.labels"
            )
        rng = np.random.default_rng(seed)
        if self.targets.dtype.kind == "i":
            of_class = [
                rng.permutation(known[self.targets[known] == label]) for label in np.unique(self.targets[known])
            ]
            rank = np.concatenate([np.arange(len(rows)) for rows in of_class])
            known = np.concatenate(of_class)[np.argsort(rank, kind="stable")]
        else:
            known = rng.permutation(known)
        targets = self.targets.copy()
        targets[known[count:]] = -1 if targets.dtype.kind == "i" else np.nan
        return replace(self, targets=targets)


@dataclass(frozen=True)
class Dataset:
    """Three splits, their contract, and the sha256 of manifests, files and preprocessing.

    ``out``: the folder that ``prepare`` wrote to; ``workers``: processes that decode, as in the recipe.
    """

    contract: Contract
    train: Samples
    validation: Samples
    test: Samples
    sha256: str
    source: str
    out: Path
    workers: int | None = None

    def preprocessed(self, modalities: Mapping[str, ModalitySpec], progress: Progress) -> Dataset:
        """The same samples as a model with ``modalities`` takes them: those alone, and preprocessed as their specs say.

        What differs from this dataset's preprocessing is decoded from the same cells once, and kept beside it.
        Raises UsageError where the data has no such modality.
        """
        check_read(self.contract.modalities, modalities)
        asked = {
            name: spec.model_copy(update={"column": self.contract.modalities[name].column})
            for name, spec in modalities.items()
        }
        # In the order asked for, which is that of the columns of ``present``.
        whole = self.contract.model_copy(
            update={"modalities": {name: self.contract.modalities[name] for name in asked}}
        )
        other = {name: spec for name, spec in asked.items() if spec != whole.modalities[name]}
        order = [list(self.contract.modalities).index(name) for name in asked]
        parts: dict[str, Samples] = {}
        for split in SPLITS:
            part: Samples = getattr(self, split)
            inputs = {name: part.inputs[name] for name in asked}
            parts[split] = replace(part, inputs=inputs, present=part.present[:, order])
        folder, cache = self.out / "data", self.out / ".work" / "tensors" / self.sha256[:16]
        tables = {split: read_table(folder / f"{split}.csv") for split in SPLITS} if other else {}
        for name, spec in other.items():
            alone = self.contract.model_copy(update={"modalities": {name: spec}})
            fitted, decoded = _tensors(alone, tables, folder, _cache_of(name, spec, cache), self.workers, progress)
            whole = whole.model_copy(update={"modalities": {**whole.modalities, **fitted.modalities}})
            for split, part in parts.items():
                parts[split] = replace(part, inputs={**part.inputs, **decoded[split]})
        return replace(self, contract=whole, train=parts["train"], validation=parts["validation"], test=parts["test"])


def check_read(ours: Mapping[str, ModalitySpec], theirs: Mapping[str, ModalitySpec]) -> None:
    """Raise UsageError where another preprocessing reads what the data does not have."""
    for name, spec in theirs.items():
        if name not in ours:
            raise UsageError(
                f"the teacher takes the modality {name!r}, which the data does not have{did_you_mean(name, ours)}",
                todo=f"the data has {', '.join(ours)}",
            )
        if spec.kind != ours[name].kind:
            raise UsageError(f"the teacher's {name!r} is of kind {spec.kind!r}, the data's of kind {ours[name].kind!r}")
        if isinstance(spec, TabularSpec) and set(spec.columns_read) - set(ours[name].columns_read):
            lacking = sorted(set(spec.columns_read) - set(ours[name].columns_read))
            raise UsageError(f"the teacher's {name!r} reads {', '.join(lacking)}, which the data's does not name")


def _cache_of(name: str, spec: ModalitySpec, cache: Path) -> Path:
    """The folder of a modality's other preprocessing: where this very spec was fitted to before, else one of its own."""
    for stored in sorted(cache.glob(f"*/{name}.spec.json")):
        if type(spec).model_validate_json(stored.read_text(encoding="utf-8")) == spec:
            return stored.parent
    return cache / hash_json(spec.model_dump(mode="json", by_alias=True))[:16]


def prepare(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> Dataset:
    """Write the manifests to ``out/data``, preprocess what they name, and return it; what is already there is reused."""
    folder, stamp = out / "data", out / "data" / "source.json"
    for cache in (folder, out / ".work"):
        private(cache)
    # Neither changes what is in the manifests: not how it is decoded, nor by how many processes.
    described = recipe.data.model_dump(mode="json", exclude={"workers"})
    key = hash_json({"data": described, "seed": recipe.seed, "source": _source_state(recipe.data, code)})
    if not stamp.is_file() or key not in stamp.read_text():
        write_manifests(recipe.data, folder, seed=recipe.seed, code=code, progress=progress)
        write_json(stamp, {"key": key})
    tables = {split: read_table(folder / f"{split}.csv") for split in SPLITS}
    contract, classes = _contract(recipe.data, tables)
    digest = hash_json([key, {split: _content(split, table, folder, contract) for split, table in tables.items()}])
    cache = out / ".work" / "tensors" / digest[:16]
    contract, inputs = _tensors(contract, tables, folder, cache, recipe.data.workers, progress)
    splits = {
        split: _samples(split, table, inputs[split], contract, classes, target_column(recipe.data))
        for split, table in tables.items()
    }
    source = (
        tables["test"]["source"][0]
        if recipe.data.dataset == "avdigits"
        else (recipe.data.dataset or str(recipe.data.manifest and recipe.data.manifest.name))
    )
    return Dataset(
        contract, splits["train"], splits["validation"], splits["test"], digest, source, out, recipe.data.workers
    )


def private(folder: Path) -> None:
    """Make a folder that nobody else on the machine can look into: caches hold the user's samples."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _source_state(data: Data, code: Path) -> str:
    """What may change outside the recipe and must not be mistaken for the same data."""
    if data.manifest:
        files = [data.manifest, *(stream.file for stream in data.align.values())]
        secret = os.environ.get(data.redact.key, "") if data.redact and data.redact.hash else ""
        return hash_json([*(sha256_of(file) for file in files if file.is_file()), hash_json(secret)])
    folder = data.recordings or os.environ.get("MMEDGE_RECORDINGS")
    if data.dataset == "avdigits" and folder:
        return hash_json(sorted((path.name, path.stat().st_size) for path in Path(folder).glob("*.wav")))
    if data.dataset and data.dataset != "avdigits":
        file = inspect.getsourcefile(load_attribute(data.dataset, code))
        return sha256_of(Path(file)) if file else ""
    return ""


def _contract(data: Data, tables: dict[str, polars.DataFrame]) -> tuple[Contract, dict[str, int]]:
    for split, table in tables.items():
        if table[target_column(data)].null_count() == table.height:
            raise MmedgeError(
                f"no sample of the {split} split has a label", where=f"data/{split}.csv, column {data.target}"
            )
    if data.task == "regression":
        mean, std = _mean_and_std(tables["train"][target_column(data)])
        return Contract(
            task="regression", modalities=data.modalities, output="value", target_mean=mean, target_std=std
        ), {}
    labels = sorted(set(tables["train"][target_column(data)].drop_nulls()))
    if len(labels) < 2:
        raise MmedgeError(
            f"the training split has one class only: {labels[0]!r}",
            where=f"data/train.csv, column {data.target}",
            todo="classification needs two",
        )
    for split in ("validation", "test"):
        for sample, label in tables[split].select("id", target_column(data)).iter_rows():
            if label is not None and label not in labels:
                raise MmedgeError(
                    f"label {label!r} of a {split} sample is not in the training split",
                    where=f"sample {sample}",
                    todo="correct the label or the split",
                )
    return Contract(task="classification", modalities=data.modalities, labels=tuple(labels)), {
        label: index for index, label in enumerate(labels)
    }


def _mean_and_std(targets: polars.Series) -> tuple[float, float]:
    """Of the finite numbers among the cells; a standard deviation of 0 becomes 1."""
    values = targets.cast(polars.Float64, strict=False).drop_nulls()
    values = values.filter(values.is_finite())
    if not len(values):
        return 0.0, 1.0  # what is wrong is told where the targets are read
    array = values.to_numpy()
    return float(array.mean()), float(array.std()) or 1.0


def _content(split: str, table: polars.DataFrame, folder: Path, contract: Contract) -> list[str]:
    """Hashes of the split's manifest and of every file that it names."""
    digests = [sha256_of(folder / f"{split}.csv")]
    for name, spec in contract.modalities.items():
        if isinstance(spec, TextSpec) and spec.tokenizer_file and spec.tokenizer_file.is_file():
            digests.append(sha256_of(spec.tokenizer_file))
        if not spec.reads_file:
            continue
        column = columns_of(name, spec)[0]
        for sample, cell in table.select("id", column).iter_rows():
            if cell is not None:
                try:
                    digests.append(sha256_of(folder / cell))
                except OSError as error:
                    raise MmedgeError(
                        f"a file of the manifest cannot be read: {error.strerror}",
                        where=f"sample {sample}, column {column}: {folder / cell}",
                        todo="mmedge check lists every such file",
                    ) from error
    return digests


def _tensors(
    contract: Contract,
    tables: dict[str, polars.DataFrame],
    folder: Path,
    cache: Path,
    workers: int | None,
    progress: Progress,
) -> tuple[Contract, dict[str, dict[str, np.ndarray]]]:
    fitted: dict[str, ModalitySpec] = {}
    inputs: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for name, spec in contract.modalities.items():
        stored = cache / f"{name}.spec.json"
        if not stored.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            spec = fit_vocabulary(name, spec, tables["train"], folder)
            raw = {split: cache / f"{name}.{split}.raw.npy" for split in SPLITS}
            for split, table in tables.items():
                _raw(name, spec, table, folder, raw[split], workers, progress)
            there = {split: np.flatnonzero(_has(name, spec, table)) for split, table in tables.items()}
            train = np.load(raw["train"], mmap_mode="r")
            spec = preprocess.fit_statistics(spec, (train[row] for row in there["train"]))
            for split in SPLITS:
                values = np.load(raw[split], mmap_mode="r+")
                for row in there[split]:
                    values[row] = preprocess.normalise(spec, values[row])
                values.flush()
                raw[split].replace(cache / f"{name}.{split}.npy")
            write_json(stored, spec.model_dump(mode="json", by_alias=True))
        fitted[name] = type(spec).model_validate_json(stored.read_text(encoding="utf-8"))
        for split in SPLITS:
            inputs[split][name] = np.load(cache / f"{name}.{split}.npy", mmap_mode="r")
    return contract.model_copy(update={"modalities": fitted}), inputs


def fit_vocabulary(name: str, spec: ModalitySpec, train: polars.DataFrame, folder: Path) -> ModalitySpec:
    """The spec with its tokenizer or categories, fitted on the training split's cells."""
    return preprocess.fit_vocabulary(spec, (value_of(spec, cells, folder) for _, cells in jobs_of(name, spec, train)))


def _has(name: str, spec: ModalitySpec, table: polars.DataFrame) -> np.ndarray:
    """bool [N]: whether the modality is there: any cell of a table's columns, the first one (path or text) elsewhere."""
    columns = columns_of(name, spec) if isinstance(spec, TabularSpec) else columns_of(name, spec)[:1]
    present = table.select(polars.any_horizontal(polars.col(column).is_not_null() for column in columns))
    return present[:, 0].to_numpy()


def jobs_of(name: str, spec: ModalitySpec, table: polars.DataFrame) -> list[Job]:
    """(index, cells) of the rows that have the modality."""
    there = _has(name, spec, table)
    rows: list[tuple[Any, ...]] = table.select(*columns_of(name, spec)).rows()
    return [(index, rows[index]) for index in np.flatnonzero(there).tolist()]


def _raw(
    name: str,
    spec: ModalitySpec,
    table: polars.DataFrame,
    folder: Path,
    target: Path,
    workers: int | None,
    progress: Progress,
) -> None:
    jobs = jobs_of(name, spec, table)
    faults = decode(spec, name, jobs, table.height, folder, target, workers=workers, progress=progress)
    if faults:
        index, what = faults[0]
        column = columns_of(name, spec)[0]
        more = f" (and {len(faults) - 1} more such samples)" if len(faults) > 1 else ""
        raise MmedgeError(
            what + more,
            where=f"sample {table['id'][index]}, column {column}: {table[column][index]}",
            todo="mend the files, or empty their cells: the modality is then missing for that sample",
        )


def _samples(
    split: str,
    table: polars.DataFrame,
    inputs: dict[str, np.ndarray],
    contract: Contract,
    classes: dict[str, int],
    target: str,
) -> Samples:
    if contract.task == "classification":
        targets = np.array([-1 if label is None else classes[label] for label in table[target]], np.int64)
    else:
        values = table[target].cast(polars.Float32, strict=False)
        wrong = (values.is_null() | ~values.is_finite().fill_null(False)) & table[target].is_not_null()
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise MmedgeError(
                f"the target {table[target][row]!r} is not a finite number",
                where=f"sample {table['id'][row]}, column {target}",
            )
        targets = values.fill_null(float("nan")).to_numpy().astype(np.float32)
        if split != "train" and np.ptp(targets[~np.isnan(targets)]) == 0:
            raise MmedgeError(
                f"the targets of the {split} split are all the same: nothing can be judged by them",
                where=f"data/{split}.csv, column {target}",
                todo="correct data.split or data.ratios",
            )
    present = np.stack([_has(name, spec, table) for name, spec in contract.modalities.items()], axis=1)
    empty = np.flatnonzero(~present.any(axis=1))
    if len(empty):
        raise MmedgeError(
            f"{len(empty)} samples have no modality at all",
            where=f"sample {table['id'][int(empty[0])]}",
            todo="remove the rows",
        )
    groups = (
        table.select(polars.coalesce("group", "id"))[:, 0].to_numpy()
        if "group" in table.columns
        else np.arange(table.height)
    )
    return Samples(
        split, tuple(table["id"]), inputs, present, targets, np.unique(groups, return_inverse=True)[1].astype(np.int64)
    )
