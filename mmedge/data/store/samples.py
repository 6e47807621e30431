"""From manifests to arrays: every sample decoded and preprocessed once, by the runtime's own code, into mapped files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars

from mmedge import tasks
from mmedge.artifact import code_hash, hash_json, sha256_of, write_json
from mmedge.contract import Contract
from mmedge.data.card import split_card
from mmedge.data.checks.targets import refuse_faulty_targets
from mmedge.data.manifest import shards
from mmedge.data.manifest.faults import columns_of
from mmedge.data.manifest.source import place, present, write_manifests
from mmedge.data.manifest.splits import SPLITS
from mmedge.data.manifest.table import read_table
from mmedge.data.manifest.targets import cells_of
from mmedge.data.store.folder import private
from mmedge.data.store.rows import Column, Reading, Rows, taken
from mmedge.data.store.tensors import Decoded, decoded, forget_others, streamed, tensors
from mmedge.errors import MmedgeError, UsageError, did_you_mean
from mmedge.frozen import Record
from mmedge.progress import Progress
from mmedge.recipe import Data, Recipe
from mmedge.recipe.dependencies import Read, code_state, still, watched
from mmedge.report.arranged import ArrangedRecord
from mmedge.report.provenance import SplitCard
from mmedge.spec import ModalitySpec, TabularSpec
from mmedge.tasks import Head
from mmedge.tasks.cells import Cells, defining_splits


@dataclass(frozen=True)
class Samples:
    """One split. N samples, M modalities in the contract's order.

    ``inputs``: {modality: [N, *shape] of the spec's dtype, in memory or restored and normalised when some are read}; ``present``: bool [N, M]; ``targets``: {head: its task's
    targets, N rows}; ``groups``: int64 [N], the independent unit of each sample; ``heads``: what the targets mean.
    """

    split: str
    ids: tuple[str, ...]
    inputs: Mapping[str, Column]
    present: np.ndarray
    targets: dict[str, np.ndarray]
    groups: np.ndarray
    heads: Mapping[str, Head]

    def __len__(self) -> int:
        return len(self.ids)

    def known(self, head: str) -> np.ndarray:
        """bool [N]: whose target of this head is known."""
        return tasks.of(self.heads[head]).known(self.targets[head])

    @property
    def labelled(self) -> np.ndarray:
        """bool [N]: whose target is known, of any head."""
        return np.any([self.known(head) for head in self.heads], axis=0)

    def known_rows(self, heads: Iterable[str]) -> np.ndarray:
        """int64: the rows whose target is known, of any of ``heads``."""
        return np.flatnonzero(np.any([self.known(head) for head in heads], axis=0))

    def hidden(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The targets with those of some rows (indices, or bool [N]) unknown."""
        return {head: tasks.of(self.heads[head]).hidden(x, rows) for head, x in self.targets.items()}

    @property
    def spread(self) -> np.ndarray | None:
        """int64 [N]: what labels are spread evenly over, by the first head that has it; None where none has."""
        each = (tasks.of(self.heads[head]).spread(x) for head, x in self.targets.items())
        return next((found for found in each if found is not None), None)

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
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            inputs={name: taken(x, rows) for name, x in self.inputs.items()},
            present=self.present[rows],
            targets={head: x[rows] for head, x in self.targets.items()},
            groups=self.groups[rows],
        )

    def masked_to(self, modalities: Sequence[str]) -> Samples:
        """The same rows with nothing else present. A row that lacks one of them keeps what it has, and loses its label.

        So no row is empty, and none counts that could not be shown the subset.
        """
        mask = np.array([name in modalities for name in self.inputs])
        having = np.asarray(self.present[:, mask].all(axis=1))
        present = np.where(having[:, None], mask, self.present)
        return replace(self, present=present, targets=self.hidden(~having))

    def present_of(self, modalities: Sequence[str]) -> np.ndarray:
        """bool [N, M]: of ``modalities`` what each sample has; one that has nothing of them keeps what it has."""
        having = self.present & np.array([name in modalities for name in self.inputs])
        present: np.ndarray = np.where(having.any(axis=1, keepdims=True), having, self.present)
        return present

    def with_labels(self, count: int, seed: int) -> Samples:
        """The same samples with all but ``count`` labels hidden, spread evenly over the classes and drawn by ``seed``."""
        known = np.flatnonzero(self.labelled)
        if count > len(known):
            raise MmedgeError(
                f"{count} labels are asked for, the training split has {len(known)}", where="distill.labels"
            )
        rng = np.random.default_rng(seed)
        classes = self.spread
        if classes is not None and len(known):
            of_class = [rng.permutation(known[classes[known] == label]) for label in np.unique(classes[known])]
            rank = np.concatenate([np.arange(len(rows)) for rows in of_class])
            known = np.concatenate(of_class)[np.argsort(rank, kind="stable")]
        else:
            known = rng.permutation(known)
        return replace(self, targets=self.hidden(known[count:]))


@dataclass(frozen=True)
class Dataset:
    """Three splits, their contract, and the sha256 of manifests, files and preprocessing.

    ``out``: the folder that ``prepare`` wrote to; ``reading``: how its samples are read; ``facts``: what
    the report tells of the data beside that; ``cards``: {split: its card}.
    """

    contract: Contract
    train: Samples
    validation: Samples
    test: Samples
    sha256: str
    source: str
    out: Path
    reading: Reading = field(default_factory=Reading)
    facts: ArrangedRecord = field(default_factory=ArrangedRecord)
    cards: Mapping[str, SplitCard] = field(default_factory=dict)

    def preprocessed(self, modalities: Mapping[str, ModalitySpec], progress: Progress) -> Dataset:
        """The same samples as a model with ``modalities`` takes them: those alone, and preprocessed as their specs say.

        What differs from this dataset's preprocessing is decoded from the same cells once, and kept beside it.
        Raises UsageError where the data has no such modality.
        """
        check_read(self.contract.modalities, modalities)
        wanted = {
            name: spec.model_copy(update={"column": self.contract.modalities[name].column})
            for name, spec in modalities.items()
        }
        # In the order asked for, which is that of the columns of ``present``.
        whole = self.contract.model_copy(
            update={"modalities": {name: self.contract.modalities[name] for name in wanted}}
        )
        other = {name: spec for name, spec in wanted.items() if spec != whole.modalities[name]}
        order = [list(self.contract.modalities).index(name) for name in wanted]
        parts: dict[str, Samples] = {}
        for split in SPLITS:
            part: Samples = getattr(self, split)
            inputs = {name: part.inputs[name] for name in wanted}
            parts[split] = replace(part, inputs=inputs, present=part.present[:, order])
        folder, cache = self.out / "data", self.out / ".work" / "tensors"
        tables = {split: read_table(folder / f"{split}.csv") for split in SPLITS} if other else {}
        for name, spec in other.items():
            where = "sample {}, column {}".format
            _, fitted, arrays = _columns(name, spec, tables, (folder, cache), self.reading, where, progress)
            whole = whole.model_copy(update={"modalities": {**whole.modalities, name: fitted}})
            for split, part in parts.items():
                parts[split] = replace(part, inputs={**part.inputs, name: arrays[split]})
        return replace(self, contract=whole, train=parts["train"], validation=parts["validation"], test=parts["test"])


# (sample's id, column) -> where it stands in the user's own table.
Place = Callable[[str, str | None], str]


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


def prepare(recipe: Recipe, out: Path, *, code: Path, progress: Progress) -> Dataset:
    """Write the manifests to ``out/data``, preprocess what they name, and return it; what is already there is reused."""
    data, folder, cache = recipe.data, out / "data", out / ".work" / "tensors"
    for kept in (out / ".work", cache):
        private(kept)
    key, facts = manifests(recipe, folder, code=code, progress=progress)
    tables = {split: read_table(folder / f"{split}.csv") for split in SPLITS}
    found = partial(place, data, recipe.seed)
    cells = cells_of(data, tables, folder)
    refuse_faulty_targets(data, tables, cells, found, learns_labels=recipe.learns_labels)
    heads = heads_of(data, cells)
    all_decoded, fitted, inputs = {}, {}, {}
    reading = Reading(data.workers, data.batch_workers, data.stream, data.unreadable)
    for name, spec in data.modalities.items():
        made = _columns(name, spec, tables, (folder, cache), reading, found, progress)
        all_decoded[name], fitted[name], inputs[name] = made
    forget_others(cache, list(all_decoded.values()))
    contract = Contract(modalities=fitted, heads=heads)
    splits = {
        split: Samples(
            split,
            tuple(table["id"]),
            {name: of_split[split] for name, of_split in inputs.items()},
            table.select(present(name, spec).alias(name) for name, spec in fitted.items()).to_numpy().astype(bool),
            _targets(data, heads, {name: each[split] for name, each in cells.items()}, _groups(table)),
            _groups(table),
            heads,
        )
        for split, table in tables.items()
    }
    source = (
        tables["test"]["source"][0]
        if data.dataset == "avdigits"
        else (data.dataset or str(data.manifest and data.manifest.name))
    )
    written = {split: sha256_of(folder / f"{split}.csv") for split in SPLITS}
    arrays = {
        name: [hashlib.sha256(each.targets[name].tobytes()).hexdigest() for each in splits.values()]
        for name, head in heads.items()
        if tasks.of(head).FILES  # what a file holds is not in the manifest
    }
    digest = hash_json(
        [key, written, {name: one.key for name, one in all_decoded.items()}, *([arrays] if arrays else [])]
    )
    cards = {
        split: split_card(table, {name: each[split] for name, each in cells.items()}, data)
        for split, table in tables.items()
    }
    whole = Dataset(contract, splits["train"], splits["validation"], splits["test"], digest, source, out)
    return replace(whole, reading=reading, facts=facts, cards=cards)


def _columns(
    name: str,
    spec: ModalitySpec,
    tables: dict[str, polars.DataFrame],
    folders: tuple[Path, Path],
    reading: Reading,
    place: Place,
    progress: Progress,
) -> tuple[Decoded, ModalitySpec, dict[str, Rows]]:
    """A modality's samples by split, and its spec with statistics. ``folders``: of relative paths, and of what is decoded."""
    asked = (name, spec, tables, *folders, reading.workers, progress)
    if reading.stream and spec.reads_file:
        return streamed(*asked)
    one = decoded(*asked)
    _refuse_unreadable(name, spec, one, tables, place)
    return one, *tensors(one)


class _Written(Record):
    """What made the manifests that lie in a folder, the files that a dataset of the user's own read, and their hashes."""

    key: str | None = None
    facts: ArrangedRecord = ArrangedRecord()
    read: dict[str, str | None] = {}
    written: dict[str, str] = {}


def manifests(recipe: Recipe, folder: Path, *, code: Path, progress: Progress) -> tuple[str, ArrangedRecord]:
    """Write the three manifests into ``folder``, unless the same source wrote them before: (their key, what was done)."""
    private(folder)
    stamp = folder / "source.json"
    # Neither changes what is in the manifests: not how it is decoded, nor by how many processes.
    described = recipe.data.model_dump(mode="json", exclude={"workers", "batch_workers"})
    source, own = _source_state(recipe.data, code, progress), code_hash("data/manifest", "data/builtin")
    key = hash_json({"data": described, "seed": recipe.seed, "source": source, "code": own})
    text = stamp.read_text(encoding="utf-8") if stamp.is_file() else "{}"
    before = _Written.model_validate_json(text)
    files = {split: folder / f"{split}.csv" for split in SPLITS}
    left = {str(file): before.written.get(split) for split, file in files.items()}
    if before.key != key or not still(left) or not still(before.read):
        stamp.unlink(missing_ok=True)  # interrupted, it would vouch for what another source wrote
        with watched(folder) if recipe.data.dataset else nullcontext(Read()) as read:
            facts = write_manifests(recipe.data, folder, seed=recipe.seed, code=code, progress=progress)
        if read.network:
            progress.say(
                f"data: {recipe.data.dataset} asks something of a network; what changes there is not noticed, and"
                " the data is taken as it was: a new --out reads it again"
            )
        written = {split: sha256_of(file) for split, file in files.items()}
        before = _Written(key=key, facts=facts, read=read.files, written=written)
        write_json(stamp, before.record())
    return key, before.facts


def _source_state(data: Data, code: Path, progress: Progress) -> str:
    """What may change outside the recipe and must not be mistaken for the same data."""
    if data.manifest:
        of = {file: shards.named(file) for file in (data.manifest, *(stream.file for stream in data.align.values()))}
        files, states = [file for file in of if not of[file]], [shards.state(each) for each in of.values() if each]
        secret = os.environ.get(data.redact.key, "") if data.redact and data.redact.hash else ""
        told = [*(sha256_of(file) for file in files if file.is_file()), hash_json(secret)]
        return hash_json([*told, *states])
    folder = data.recordings or os.environ.get("MMEDGE_RECORDINGS")
    if data.dataset == "avdigits":
        return hash_json(sorted((path.name, sha256_of(path)) for path in Path(folder).glob("*.wav")) if folder else [])
    return code_state(data.dataset, data.args, code, progress.say) if data.dataset else ""


def heads_of(data: Data, cells: Mapping[str, Mapping[str, Cells]]) -> dict[str, Head]:
    """The heads as the cells of the telling splits describe them. ``cells``: as of ``cells_of``."""
    found = {}
    for name, target in data.heads.items():
        defining = [cell for split in defining_splits(cells[name]) for cell in cells[name][split]]
        found[name] = tasks.of(target).head(defining, target)
    return found


def _targets(
    data: Data, heads: Mapping[str, Head], cells: Mapping[str, Cells], groups: np.ndarray
) -> dict[str, np.ndarray]:
    """{head: the targets of a split}. ``groups``: int64 [N]."""
    found = {name: tasks.of(head).targets(cells[name], head, data.heads[name]) for name, head in heads.items()}
    return {name: tasks.of(head).grouped(found[name], groups) for name, head in heads.items()}


def _refuse_unreadable(
    name: str, spec: ModalitySpec, one: Decoded, tables: dict[str, polars.DataFrame], found: Place
) -> None:
    faults = [(split, row, what) for split, of_split in one.faults.items() for row, what in of_split]
    if not faults:
        return
    split, row, what = faults[0]
    # What is wrong with a table's row names its column itself.
    column = None if isinstance(spec, TabularSpec) else columns_of(name, spec)[0]
    more = f" (and {len(faults) - 1} more such samples; mmedge check lists them)" if len(faults) > 1 else ""
    cell = f": {tables[split][column][row]}" if column and spec.reads_file else ""
    raise MmedgeError(
        what + more,
        where=found(tables[split]["id"][row], column) + cell,
        todo="mend it, or empty the cell: the modality is then missing for that sample",
    )


def _groups(table: polars.DataFrame) -> np.ndarray:
    """int64 [N]: the independent unit of each row; a row of no group is one of its own."""
    if "group" not in table.columns:
        return np.arange(table.height)
    groups = table.select(polars.coalesce("group", "id"))[:, 0].to_numpy()
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
