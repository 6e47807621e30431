"""From manifests to arrays: every sample decoded and preprocessed once, by the runtime's own code, into mapped files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars

from mmedge.artifact import hash_json, replacing, sha256_of, write_json
from mmedge.data.source import SPLITS, columns_of, load_attribute, read_table, target_column, write_manifests
from mmedge.errors import MmedgeError
from mmedge.progress import Progress
from mmedge.recipe import Data, Recipe
from mmedge.runtime import preprocess
from mmedge.spec import Contract, ModalitySpec, TabularSpec


@dataclass(frozen=True)
class Samples:
    """One split. N samples, M modalities in the contract's order.

    ``inputs``: {modality: float32 [N, *shape]}; ``present``: bool [N, M]; ``targets``: int64 [N] (class, -1 where
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
    """Three splits, their contract, and the sha256 of manifests, files and preprocessing."""

    contract: Contract
    train: Samples
    validation: Samples
    test: Samples
    sha256: str
    source: str


def prepare(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> Dataset:
    """Write the manifests to ``out/data``, preprocess what they name, and return it; what is already there is reused."""
    folder, stamp = out / "data", out / "data" / "source.json"
    key = hash_json(
        {"data": recipe.data.model_dump(mode="json"), "seed": recipe.seed, "source": _source_state(recipe.data, code)}
    )
    if not stamp.is_file() or key not in stamp.read_text():
        write_manifests(recipe.data, folder, seed=recipe.seed, code=code, progress=progress)
        write_json(stamp, {"key": key})
    tables = {split: read_table(folder / f"{split}.csv") for split in SPLITS}
    contract, classes = _contract(recipe.data, tables)
    digest = hash_json([key, {split: _content(table, folder, contract) for split, table in tables.items()}])
    contract, inputs = _tensors(contract, tables, folder, out / ".work" / "tensors" / digest[:16], progress)
    splits = {
        split: _samples(split, table, inputs[split], contract, classes, target_column(recipe.data))
        for split, table in tables.items()
    }
    source = (
        tables["test"]["source"][0]
        if recipe.data.dataset == "avdigits"
        else (recipe.data.dataset or str(recipe.data.manifest and recipe.data.manifest.name))
    )
    return Dataset(contract, splits["train"], splits["validation"], splits["test"], digest, source)


def _source_state(data: Data, code: Path) -> str:
    """What may change outside the recipe and must not be mistaken for the same data."""
    if data.manifest:
        return sha256_of(data.manifest) if data.manifest.is_file() else ""
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
        return Contract(task="regression", modalities=data.modalities, output="value"), {}
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


def _content(table: polars.DataFrame, folder: Path, contract: Contract) -> list[str]:
    """Hashes of the table's rows and of every file that it names."""
    digests = [hash_json(row) for row in table.iter_rows()]
    for name, spec in contract.modalities.items():
        if not isinstance(spec, TabularSpec):
            column = columns_of(name, spec)[0]
            for sample, cell in table.select("id", column).iter_rows():
                if cell is not None:
                    try:
                        digests.append(sha256_of(folder / cell))
                    except OSError as error:
                        raise MmedgeError(
                            f"a file of the manifest cannot be read: {error.strerror}",
                            where=f"sample {sample}, column {column}: {folder / cell}",
                        ) from error
    return digests


def _tensors(
    contract: Contract, tables: dict[str, polars.DataFrame], folder: Path, cache: Path, progress: Progress
) -> tuple[Contract, dict[str, dict[str, np.ndarray]]]:
    fitted: dict[str, ModalitySpec] = {}
    inputs: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for name, spec in contract.modalities.items():
        stored = cache / f"{name}.spec.json"
        if not stored.is_file():
            raw = {split: _raw(name, spec, table, folder, progress) for split, table in tables.items()}
            fitted[name] = preprocess.fit_statistics(
                spec, (x for x, row in zip(raw["train"], _has(name, spec, tables["train"])) if row)
            )
            for split in SPLITS:
                values = raw[split]
                for index, there in enumerate(_has(name, spec, tables[split])):
                    if there:
                        values[index] = preprocess.normalise(fitted[name], values[index])
                with replacing(cache / f"{name}.{split}.npy") as temporary:
                    np.save(temporary, values)
            write_json(stored, fitted[name].model_dump(mode="json", by_alias=True))
        fitted[name] = type(spec).model_validate_json(stored.read_text())
        for split in SPLITS:
            inputs[split][name] = np.load(cache / f"{name}.{split}.npy", mmap_mode="r")
    return contract.model_copy(update={"modalities": fitted}), inputs


def _has(name: str, spec: ModalitySpec, table: polars.DataFrame) -> np.ndarray:
    """bool [N]: whether every cell that the modality reads is there."""
    return table.select(polars.all_horizontal(polars.col(column).is_not_null() for column in columns_of(name, spec)))[
        :, 0
    ].to_numpy()


def _raw(name: str, spec: ModalitySpec, table: polars.DataFrame, folder: Path, progress: Progress) -> np.ndarray:
    out = np.zeros((table.height, *spec.shape), np.float32)
    columns = columns_of(name, spec)
    faults: list[MmedgeError] = []
    for index, (sample, *cells) in enumerate(table.select("id", *columns).iter_rows()):
        if None in cells:
            continue
        try:
            out[index] = preprocess.raw_features(
                spec, cells if isinstance(spec, TabularSpec) else folder / cells[0], name
            )
            if not np.isfinite(out[index]).all():
                raise MmedgeError("NaN or infinite values")
        except MmedgeError as error:
            faults.append(MmedgeError(error.what, where=f"sample {sample}, column {columns[0]}: {cells[0]}"))
        if index % 50 == 49 or index + 1 == table.height:
            progress.step(f"preprocessing {name}", index + 1, table.height)
    if faults:
        more = f" (and {len(faults) - 1} more such samples)" if len(faults) > 1 else ""
        raise MmedgeError(
            faults[0].what + more,
            where=faults[0].where,
            todo="mend the files, or empty their cells: the modality is then missing for that sample",
        )
    return out


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
    groups = table["group"].fill_null("").to_numpy() if "group" in table.columns else np.arange(table.height)
    return Samples(
        split, tuple(table["id"]), inputs, present, targets, np.unique(groups, return_inverse=True)[1].astype(np.int64)
    )
