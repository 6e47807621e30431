"""Data as callers have it, loaders, datasets, frames, arrays and files, as columns of samples: the one place that knows their kinds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmedge.api.networks import Network
from mmedge.data.arrays import LABELS
from mmedge.data.manifest.splits import SPELLINGS
from mmedge.errors import UnmatchedInputs, UnreadableData, UsageError, brief, did_you_mean

# A sample as callers have it: {name: value}, of any type.
Row = dict[str, Any]

_TARGETS = (*LABELS, "target", "targets", "y")
_WANTED = (
    "give a torch DataLoader or Dataset, a datasets.Dataset, a pandas or polars frame, {name: array}, an .npz,"
    " a manifest or module:build; a sample is a dict by name, or a tuple in the order of forward, the label behind"
)


@dataclass(frozen=True)
class Source:
    """Data, and what it does not say itself; ``mmedge.samples`` makes one.

    ``names``: of a tuple's items in order; or {name in the data: parameter of ``forward``}. ``target``: what holds the
    label, ``group`` what keeps samples in one split; ``task``, ``classes``: what labels mean; ``modalities``: {name: its
    preprocessing, as in a recipe} of raw values.
    """

    data: Any
    names: Sequence[str] | Mapping[str, str] = ()
    target: str | None = None
    group: str | None = None
    task: str | None = None
    classes: tuple[str, ...] = ()
    modalities: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Columns:
    """N samples. ``inputs``: {name: what each sample has, None where it lacks it}; ``labels``, ``groups``: one a sample,
    None where unknown; ``classes``: names of the labels, where the data has numbers for them."""

    inputs: dict[str, list[Any]] = field(default_factory=dict)
    labels: list[Any] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, inputs: Mapping[str, Any], label: Any, group: Any) -> None:
        """Append a sample."""
        for name in inputs:  # in their order: a set's differs from process to process, and the order is the model's
            self.inputs.setdefault(name, [None] * len(self))
        for name, values in self.inputs.items():
            values.append(inputs.get(name))
        self.labels.append(label)
        self.groups.append(group)

    def taken(self, rows: Sequence[int]) -> Columns:
        """The samples of some rows."""
        return Columns(
            {name: [values[row] for row in rows] for name, values in self.inputs.items()},
            [self.labels[row] for row in rows],
            [self.groups[row] for row in rows],
            self.classes,
        )


def columns(source: Source, taker: Network) -> dict[str, Columns]:
    """{split: its samples}, or {"": all of them} where the data has no splits of its own.

    ``taker``: the network, by whose ``forward`` tuples and frames are understood. Raises UnreadableData and
    UnmatchedInputs.
    """
    splits = _splits(source.data)
    if splits is None:
        return {"": _columns(source, source.data, taker)}
    return {split: _columns(source, data, taker) for split, data in splits.items()}


def _splits(data: Any) -> dict[str, Any] | None:
    """{split: its data} of a mapping whose keys are all names of splits; None of anything else."""
    if not isinstance(data, Mapping) or not data:
        return None
    named = {str(key): SPELLINGS.get(str(key).lower()) for key in data}
    if None in named.values():
        return None
    if len(set(named.values())) < len(named):
        raise UnreadableData(f"two names for one split: {', '.join(named)}", todo="name train, validation and test")
    return {str(named[str(key)]): value for key, value in data.items()}


def _columns(source: Source, data: Any, taker: Network) -> Columns:
    found = Columns(classes=_class_names(source, data))
    for number, item in enumerate(_items(source, data, taker)):
        inputs, label, group = _sample(source, item, taker, number)
        found.add(inputs, label, group)
    if not len(found):
        raise UnreadableData(f"{kind_of(data)} yields no sample", todo=_WANTED)
    return found


def _items(source: Source, data: Any, taker: Network) -> Iterator[Any]:
    """The samples of any kind of data, each a dict by name, a tuple or a single value."""
    module = type(data).__module__.partition(".")[0]
    if isinstance(data, Mapping):
        yield from _rows(data, "the arrays")
    elif module == "pandas" and hasattr(data, "columns"):
        yield from _framed(source, {str(name): data[name].tolist() for name in data.columns}, taker)
    elif module == "polars" and hasattr(data, "columns"):
        data = data.collect() if hasattr(data, "collect") else data
        yield from _framed(source, data.to_dict(as_series=False), taker)
    elif isinstance(data, Iterator):
        raise UnreadableData(
            f"{kind_of(data)} can be read once only, and a run that is resumed reads it again",
            todo="give list(…) of it, or a Dataset",
        )
    elif _is_loader(data):
        yield from _unbatched(_in_order(data))
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, bytes)):
        for row in range(len(data)):
            yield data[row]
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        yield from data
    else:
        raise UnreadableData(f"{kind_of(data)} is no data that can be read", todo=_WANTED)


def _is_loader(data: Any) -> bool:
    """Whether a batch, not a sample, is what comes of it."""
    from torch.utils.data import DataLoader

    return (isinstance(data, DataLoader) and data.batch_size is not None) or (
        isinstance(data, DataLoader) and data.batch_sampler is not None
    )


def _in_order(loader: Any) -> Any:
    """A loader of the same samples, each once and in the order of its dataset: one that is drawn anew at each call would
    put a sample in another split at each."""
    from torch.utils.data import DataLoader, RandomSampler, Subset, SubsetRandomSampler, WeightedRandomSampler

    sampler, dataset = getattr(loader, "sampler", None), loader.dataset
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, sorted(map(int, sampler.indices)))
    elif not isinstance(sampler, (RandomSampler, WeightedRandomSampler)):
        return loader
    workers = loader.num_workers
    return DataLoader(dataset, loader.batch_size or 1, collate_fn=loader.collate_fn, num_workers=workers)


def _unbatched(loader: Iterable[Any]) -> Iterator[Any]:
    for number, batch in enumerate(loader):
        yield from _rows_of(batch, f"batch {number}")


def _rows_of(batch: Any, where: str) -> Iterator[Any]:
    """The samples of a batch: a dict or tuple of what has a row a sample, however nested."""
    if isinstance(batch, Mapping):
        yield from _rows(batch, where)
    elif isinstance(batch, (tuple, list)):
        parts = [list(_rows_of(part, where)) for part in batch]
        if len({len(part) for part in parts}) > 1:
            raise UnreadableData(
                f"{where} holds {', '.join(str(len(part)) for part in parts)} samples of its parts",
                todo="every part of a batch has a row a sample: look at the loader's collate_fn",
            )
        yield from zip(*parts)
    elif hasattr(batch, "shape") and len(batch.shape):
        yield from batch
    elif isinstance(batch, str):
        yield batch
    else:
        raise UnreadableData(f"{where} of the loader holds {kind_of(batch)}", todo=_WANTED)


def _rows(arrays: Mapping[Any, Any], where: str) -> Iterator[Row]:
    """The samples of {name: what has a row a sample}."""
    held = {
        str(name): value if hasattr(value, "shape") or isinstance(value, (list, tuple)) else None
        for name, value in arrays.items()
    }
    for name, value in held.items():
        if value is None or (hasattr(value, "shape") and not len(value.shape)):
            raise UnreadableData(
                f"{where} hold {kind_of(arrays[name])} under {name!r}, which has no row a sample", todo=_WANTED
            )
    counts = {name: len(value) for name, value in held.items() if value is not None}
    if len(set(counts.values())) > 1:
        raise UnreadableData(
            f"{where} have different lengths: {', '.join(f'{name} {count}' for name, count in counts.items())}",
            todo="each has a row a sample on its first axis",
        )
    for row in range(next(iter(counts.values()), 0)):
        yield {name: value[row] for name, value in held.items() if value is not None}


def _framed(source: Source, table: dict[str, list[Any]], taker: Network) -> Iterator[Row]:
    """The rows of a frame; where the model takes one input, which no column is called, it gets all columns of numbers."""
    target = _target(source, table)
    left = [name for name in table if name not in (target, source.group)]
    if isinstance(source.names, Mapping):
        named = list(source.names)
    else:
        named = list(source.names) or [name for name in taker.takes if name in table] or list(source.modalities)
    if named or len(taker.takes) != 1:
        yield from _rows(table, "the columns")
        return
    for name in left:
        if not all(isinstance(value, (int, float)) or value is None for value in table[name]):
            raise UnmatchedInputs(
                f"the column {name!r} holds other things than numbers, and the model takes {taker.takes[0]!r} alone",
                todo=f"leave it out, or name what holds the label: mmedge.samples(frame, target={left[-1]!r})",
            )
    for row in range(len(table[left[0]]) if left else 0):
        cells = [_number(table[name][row]) for name in left]
        gap = next((name for name, cell in zip(left, cells) if cell is None), None)
        if gap is not None:
            raise UnreadableData(
                f"row {row} has no number in the column {gap!r}", todo="fill the gaps, or drop such rows or columns"
            )
        rest = {name: table[name][row] for name in (target, source.group) if name}
        yield {taker.takes[0]: np.array(cells, np.float32), **rest}


def _number(value: Any) -> float | None:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else float(value)


def _sample(source: Source, item: Any, taker: Network, number: int) -> tuple[Row, Any, Any]:
    """(inputs by name, label, group) of one sample."""
    if isinstance(item, Mapping):
        return _of_mapping(source, {str(key): value for key, value in item.items()}, taker)
    if isinstance(item, (tuple, list)) and not isinstance(item, str):
        parts = list(item)
        if len(parts) == 2 and isinstance(parts[0], Mapping):
            inputs, _, group = _of_mapping(source, {str(key): value for key, value in parts[0].items()}, taker)
            return inputs, parts[1], group
        if len(parts) == 2 and isinstance(parts[0], (tuple, list)):
            parts = [*parts[0], parts[1]]
        return _of_tuple(source, parts, taker)
    if hasattr(item, "shape") or isinstance(item, str):
        return _of_tuple(source, [item], taker)
    raise UnreadableData(f"sample {number} is {kind_of(item)}", todo=_WANTED)


def _of_mapping(source: Source, item: Row, taker: Network) -> tuple[Row, Any, Any]:
    target = _target(source, item)
    group = item.pop(source.group, None) if source.group else None
    label = item.pop(target, None) if target else None
    _gather(source, item)
    named = source.names if isinstance(source.names, Mapping) else {}
    known = {*taker.takes, *taker.may_take, *named, *source.modalities}
    chosen = {name: value for name, value in item.items() if taker.any_input or name in known}
    if not named and len(taker.takes) == 1 and taker.takes[0] not in chosen and len(item) == 1:
        chosen = item  # one input, whatever the data calls it
    given = {named.get(name, name) for name in chosen}
    lacking = [name for name in taker.takes if name not in given]
    if (lacking and len(chosen) != 1) or (lacking and len(taker.takes) > 1) or not chosen:
        wanted = ", ".join(map(repr, lacking or taker.takes))
        raise UnmatchedInputs(
            f"the model takes {wanted}, and the data has {', '.join(map(repr, item)) or 'nothing'}{did_you_mean(lacking[0], item) if lacking else ''}",
            todo=f"name them: mmedge.samples(data, names={{{next(iter(item), 'x')!r}: {(lacking or ['parameter'])[0]!r}, …}})",
        )
    return chosen, label, group


def _gather(source: Source, item: Row) -> None:
    """Put the columns of a table's modality, which stand each for itself in a sample, under its name, in place."""
    for name, spec in source.modalities.items():
        columns = [*spec.get("columns", ()), *spec.get("categorical", ())]
        if name in item or not columns:
            continue
        lacking = next((column for column in columns if column not in item), None)
        if lacking is not None:
            raise UnreadableData(
                f"the data has no column {lacking!r}{did_you_mean(lacking, item)}; it has {', '.join(item)}",
                todo=f"correct modalities[{name!r}]",
            )
        cells = {column: item.pop(column) for column in columns}
        cells = {column: None if cell != cell else cell for column, cell in cells.items()}  # NaN is a gap
        item[name] = cells if any(cell is not None for cell in cells.values()) else None


def _of_tuple(source: Source, parts: list[Any], taker: Network) -> tuple[Row, Any, Any]:
    names = list(source.names) if not isinstance(source.names, Mapping) else []
    if names:
        if len(names) != len(parts):
            raise UnmatchedInputs(
                f"a sample has {len(parts)} parts, and 'names' has {len(names)}", todo="name each part, the label too"
            )
        return _of_mapping(source, dict(zip(names, parts)), taker)
    for takes in ((*taker.takes,), (*taker.takes, *taker.may_take)):
        if len(parts) in (len(takes), len(takes) + 1) and takes:
            return dict(zip(takes, parts)), parts[len(takes)] if len(parts) > len(takes) else None, None
    wanted = ", ".join((*taker.takes, *taker.may_take)) or "what the data names"
    raise UnmatchedInputs(
        f"a sample has {len(parts)} parts, and the model takes {wanted}",
        todo=f"say what each part is: mmedge.samples(data, names=[{', '.join(map(repr, taker.takes)) or repr('image')}, 'label'])",
    )


def _target(source: Source, there: Mapping[str, Any]) -> str | None:
    """The name under which the labels stand."""
    if source.target is not None:
        if source.target not in there:
            raise UnreadableData(
                f"the data has no {source.target!r}{did_you_mean(source.target, there)}; it has {', '.join(there)}",
                todo="name what holds the label in 'target'",
            )
        return source.target
    return next((name for name in _TARGETS if name in there), None)


def _class_names(source: Source, data: Any) -> tuple[str, ...]:
    """The names that a Hugging Face dataset has for its numbers of classes."""
    features = getattr(data, "features", None)
    if not isinstance(features, Mapping):
        return ()
    name = _target(source, features)
    return tuple(getattr(features[name], "names", None) or ()) if name else ()


def kind_of(given: Any) -> str:
    """What an object is, for a message: "a list", "a torch.Tensor"."""
    kind, home = type(given).__name__, type(given).__module__.partition(".")[0]
    name = kind if home == "builtins" else f"{home}.{kind}"
    return (
        f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name} ({brief(given, 40)})"
        if home == "builtins"
        else f"a {name}"
    )


def from_file(given: str | Path) -> Any:
    """The arrays of an .npz, or what ``module:build`` builds: {split: dataset} where it takes a split, as a recipe's does.

    None for a manifest, which is a recipe's own kind of data.
    """
    path = Path(given).expanduser()
    if path.suffix.lower() == ".npz":
        from mmedge.data.arrays import arrays_of

        return arrays_of(path)
    if ":" in str(given) and not path.exists():
        import inspect

        from mmedge.recipe.code import load_attribute

        build = load_attribute(str(given), Path.cwd(), "dataset")
        if not inspect.signature(build).parameters:
            return build()
        return {split: build(split) for split in ("train", "validation", "test")}
    if not path.exists():
        raise UsageError("the data does not exist", where=str(given), todo=_WANTED)
    return None
