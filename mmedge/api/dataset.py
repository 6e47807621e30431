"""A recipe's section ``data`` of what a caller gave: what its labels mean, how it is split, and what its values are."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmedge import tasks
from mmedge.api.data import Columns, Row, Source, columns, from_file, kind_of
from mmedge.api.networks import Network
from mmedge.api.values import array_of, few_of, raw_value, readings, spec_of, taken, tried
from mmedge.data.manifest import splits
from mmedge.data.manifest.source import target_cell
from mmedge.data.manifest.splits import SPLITS
from mmedge.errors import UnlabelledData, UnmatchedInputs, UnreadableData, UsageError, brief, did_you_mean
from mmedge.recipe.data import RESERVED, Data
from mmedge.recipe.objects import hold
from mmedge.tasks import Target

# Labels that mean "unknown": of semi-supervised data sets, and of torch's losses.
_UNKNOWN = (-1, -100)
# Shares of what has no splits of its own, as a recipe's.
_SHARES: dict[str, float] = Data.model_fields["ratios"].default
_UNLABELLED = (
    "what is kept is judged by labels: give some in validation and test; or mmedge.quantize an .onnx file, which is judged"
    " by its own outputs in float"
)


@dataclass(frozen=True)
class DataSection:
    """``values``: the recipe's section ``data``; ``names``: {modality: the parameter of ``forward`` that takes it}.

    ``few``: {modality: [n, *shape]} of some samples, to look at a network with; ``folder``: of the recipe's own code.
    """

    values: dict[str, Any]
    names: dict[str, str]
    folder: Path
    keeps: Any = None
    few: Mapping[str, np.ndarray] = field(default_factory=dict)

    def model(self, network: Network) -> dict[str, Any]:
        """What the recipe's section of a network says beside itself: its inputs, modalities and outputs.

        Raises UnmatchedInputs where the network takes what the data does not have.
        """
        every = {*network.takes, *network.may_take}
        taken = {modality: name for modality, name in self.names.items() if network.any_input or name in every}
        if not taken and len(self.names) == len(network.takes) == 1:
            taken = dict.fromkeys(self.names, network.takes[0])
        lacking = [name for name in network.takes if name not in taken.values()]
        if lacking or not taken:
            raise UnmatchedInputs(
                f"the model takes {', '.join(map(repr, lacking or network.takes))}, and the data has {', '.join(map(repr, self.names.values()))}",
                todo="name them: mmedge.samples(data, names={name in the data: parameter of forward})",
            )
        inputs = {modality: name for modality, name in taken.items() if modality != name}
        section: dict[str, Any] = {"inputs": inputs} if inputs else {}
        if len(taken) < len(self.names):
            section["modalities"] = list(taken)
        head = tasks.TASKS[self.values["task"]].OUTPUT
        found = tried(network, {name: self.few[modality] for modality, name in taken.items() if modality in self.few})
        if len(found) > 1 and head not in found:
            section["outputs"] = list(found)
        return section


class HeldData:
    """A dataset as a recipe names it: ``build(split)`` gives a list of samples."""

    def __init__(self, parts: Mapping[str, list[Row]]) -> None:
        self.parts = parts

    def __call__(self, split: str) -> list[Row]:
        return self.parts[split]


def given(data: Any, taker: Network, *, seed: int, labels: bool = True) -> DataSection:
    """The section of any kind of data. ``taker``: the network that it is for; ``labels``: whether some are needed.

    Raises UnreadableData, UnmatchedInputs and UnlabelledData.
    """
    source = data if isinstance(data, Source) else Source(data)
    if isinstance(source.data, (str, Path)):
        held = from_file(source.data)
        if held is None:
            return _of_manifest(Path(source.data).expanduser(), source)
        source = replace(source, data=held)
    parts = columns(source, taker)
    every = [label for part in parts.values() for label in part.labels]
    known = [label for label in map(plain, every) if label is not None]
    if labels and not known:
        raise UnlabelledData("the data has no label", todo=_UNLABELLED)
    first = next(iter(parts.values()))
    few, parameters = few_of(first), source.names if isinstance(source.names, Mapping) else {}
    inputs = {name: parameters.get(name, name) for name in few}
    if len(inputs) == len(taker.takes) == 1:
        inputs = dict.fromkeys(inputs, taker.takes[0])
    named = taken(taker, {inputs[name]: readings(x) for name, x in few.items()})
    few = {name: named[called] for name, called in inputs.items()}
    task, classes, cell = meaning(known, source, first, tried(taker, named))
    for part in parts.values():
        part.labels = [None if (known := plain(label)) is None else cell(known) for label in part.labels]
    whole = _split(parts, Target(task=task, classes=classes), seed)
    if labels:
        for split in ("validation", "test"):
            if all(label is None for label in whole[split].labels):
                raise UnlabelledData(f"no sample of the {split} split has a label", todo=_UNLABELLED)
    renamed = {name: modality(name) for part in whole.values() for name in part.inputs}
    modalities: dict[str, Any] = {}
    for name, called in renamed.items():
        modalities[called] = source.modalities.get(name) or spec_of(name, whole, few.get(name))
    rows = {split: _samples(part, renamed, modalities, source) for split, part in whole.items()}
    build = HeldData(rows)
    values: dict[str, Any] = {"modalities": modalities, "task": task, **({"classes": list(classes)} if classes else {})}
    if tasks.TASKS[task].ORDERED and source.classes:
        values["order"] = list(source.classes)
    if any(group is not None for part in whole.values() for group in part.groups):
        values["group"] = "group"
    values["dataset"] = hold("data", _digest(rows), build)
    names = {called: parameters.get(name, name) for name, called in renamed.items()}
    return DataSection(values, names, Path.cwd(), build, {renamed[name]: x for name, x in few.items()})


def modality(name: str) -> str:
    """What an input is called in a recipe: its own name, unless a network has that name itself."""
    return f"{name}_input" if name in RESERVED else name


def plain(label: Any) -> Any:
    """A label as Python's own value: a number, a text, or a list of numbers or texts; None where it is unknown.

    An array of several axes is left as it is: frames.
    """
    if hasattr(label, "detach"):
        label = label.detach().cpu().numpy()
    if isinstance(label, np.ndarray) and label.ndim > 1 and label.dtype.kind in "fiub":
        return label
    if isinstance(label, (np.ndarray, np.generic)):
        label = label.tolist()
    if isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    if isinstance(label, (tuple, set, frozenset)):
        label = sorted(label) if isinstance(label, (set, frozenset)) else list(label)
    if (
        label is None
        or (isinstance(label, float) and math.isnan(label))
        or (label == "" if isinstance(label, str) else False)
    ):
        return None
    if isinstance(label, (bool, int, float, str)):
        return label
    if isinstance(label, list) and all(isinstance(each, (bool, int, float, str)) for each in label):
        return label
    raise UnreadableData(
        f"a label is {kind_of(label)}", todo="a label is a class, a number, or a list of labels or of 0 and 1"
    )


def meaning(
    known: Sequence[Any], source: Source, part: Columns, outputs: Mapping[str, np.ndarray]
) -> tuple[str, tuple[str, ...], Callable[[Any], Any]]:
    """(task, classes, {label: its cell}) of the labels; ``outputs``: the model's, of a few samples, whose width tells.

    Whole numbers are classes where the model has several columns, in the order of the columns; -1 and -100 are unknown.
    """
    width = _width(outputs)
    listed = any(isinstance(label, list) for label in known)
    arrays = any(isinstance(label, np.ndarray) for label in known)
    task = source.task or ("frames" if arrays else _task(known, width, listed))
    if task not in tasks.TASKS:
        raise UsageError(
            f"unknown task {task!r}{did_you_mean(task, tasks.TASKS)}", todo=f"tasks: {', '.join(tasks.TASKS)}"
        )
    kind = tasks.TASKS[task]
    if kind.AMONG or kind.CODES:
        raise UsageError(
            f"{task} is learnt from a recipe, which says what belongs together or how texts are written",
            todo=f"write data.task: {task} into one: mmedge.run(recipe)",
        )
    if kind.FILES:
        return task, (), np.asarray
    if arrays:
        raise UnreadableData(
            f"a label is an array of several axes, and the task {task}", todo="leave the task out: it is frames"
        )
    if kind.SEVERAL:
        count = max((len(label) for label in known if isinstance(label, list)), default=0)
        flags = all(isinstance(label, list) and len(label) == count and set(label) <= {0, 1} for label in known)
        names = source.classes or part.classes or (tuple(map(str, range(count))) if flags else ())
        return task, names, (lambda label: [names[at] for at, flag in enumerate(label) if flag]) if flags else _texts
    if not kind.LABELS:
        return task, (), lambda label: np.asarray(label, np.float64) if isinstance(label, list) else float(label)
    if kind.ORDERED:
        return task, (), _text
    numbers = [label for label in known if not isinstance(label, str)]
    if len(numbers) < len(known):
        return task, _fitting(source.classes or tuple(sorted(set(map(str, known)))), width, known), _text
    count = width or int(max(numbers, default=0)) + 1
    names = source.classes or part.classes or tuple(str(number) for number in range(count))
    most = max(numbers, default=0)
    if most >= len(names) and not source.classes:
        raise UsageError(
            f"there is a label {most:g}, and the model gives {len(names)} classes, 0 to {len(names) - 1}",
            todo="number the classes as the columns of the model's output",
        )

    def cell(label: Any) -> Any:
        if int(label) in _UNKNOWN:
            return None
        return _text(label) if source.classes else names[int(label)]

    return task, _fitting(names, width, known), cell


def _fitting(names: tuple[str, ...], width: int | None, known: Sequence[Any]) -> tuple[str, ...]:
    if width is not None and len(names) != width and known:
        raise UsageError(
            f"the model gives {width} columns, and there are {len(names)} classes: {brief(', '.join(names), quoted=False)}",
            todo="name all classes in the order of the model's output: mmedge.samples(data, classes=[…])",
        )
    return names


def _task(known: Sequence[Any], width: int | None, listed: bool) -> str:
    """What labels mean that nobody has said."""
    if listed:
        numbers = [each for label in known if isinstance(label, list) for each in label if not isinstance(each, str)]
        return "regression" if any(not float(number).is_integer() for number in numbers) else "multilabel"
    numbers = [label for label in known if not isinstance(label, str)]
    if len(numbers) < len(known) or not known:
        return "classification"
    whole = all(float(label).is_integer() for label in numbers)
    if width == 1 and {int(label) for label in numbers if whole} <= {0, 1} and whole:
        raise UsageError(
            "the model gives one column for two classes, and a classifier has a column a class",
            todo="give it two logits; or, where it is a number that is predicted, say mmedge.samples(data, task='regression')",
        )
    if width == 1 or not whole:
        return "regression"
    return "classification"


def _text(label: Any) -> str:
    return str(int(label)) if isinstance(label, (bool, float)) and float(label).is_integer() else str(label)


def _texts(label: Any) -> list[str]:
    return [_text(each) for each in label] if isinstance(label, list) else [_text(label)]


def _width(outputs: Mapping[str, np.ndarray]) -> int | None:
    """The columns of the output that is judged: the one called logits or value, else the first."""
    if not outputs:
        return None
    judged = next((outputs[name] for name in ("logits", "value") if name in outputs), next(iter(outputs.values())))
    return int(judged.shape[1]) if judged.ndim > 1 else 1


def _split(parts: dict[str, Columns], target: Target, seed: int) -> dict[str, Columns]:
    """Three splits: those of the data; what is missing is drawn from training, stratified or by whole groups."""
    found = {split: part for split, part in parts.items() if split}
    whole = parts.get("", found.get("train"))
    if whole is None:
        raise UnreadableData(
            f"the data has the splits {', '.join(found)} and none to train on", todo="give a split 'train' too"
        )
    drawn = [split for split in SPLITS if split == "train" or split not in found]
    if drawn == ["train"]:
        return {split: found[split] for split in SPLITS}
    shares = np.array([_SHARES[split] for split in drawn])
    cells = [target_cell(label) for label in whole.labels]
    strata = np.array(tasks.of(target).strata(cells, target), dtype=object).astype(str)
    groups = None
    if any(group is not None for group in whole.groups):
        groups = np.array([str(row) if group is None else str(plain(group)) for row, group in enumerate(whole.groups)])
    part = splits.by_ratio(strata, groups, list(shares / shares.sum()), seed)
    found |= {split: whole.taken(np.flatnonzero(part == number).tolist()) for number, split in enumerate(drawn)}
    for split in SPLITS:
        if not len(found[split]):
            raise UnlabelledData(f"too few labelled samples to split: {split} would be empty", todo=_UNLABELLED)
    return {split: found[split] for split in SPLITS}


def _samples(part: Columns, renamed: Mapping[str, str], modalities: Mapping[str, Any], source: Source) -> list[Row]:
    """Samples as a recipe's dataset gives them."""
    rows: list[Row] = []
    for row in range(len(part)):
        sample: Row = {"label": part.labels[row]}
        for name, values in part.inputs.items():
            value = values[row]
            if value is not None:
                spec = modalities[renamed[name]]
                value = raw_value(value) if name in source.modalities else array_of(name, value).reshape(spec["shape"])
                if name not in source.modalities:
                    value = value.astype(np.int64 if "ids" in spec else np.float32)
            sample[renamed[name]] = value
        if part.groups[row] is not None:
            sample["group"] = str(plain(part.groups[row]))
        rows.append(sample)
    return rows


def _digest(rows: Mapping[str, list[Row]]) -> str:
    """The hash of all samples."""
    digest = hashlib.sha256()
    for split, samples in rows.items():
        digest.update(f"{split} {len(samples)}".encode())
        for sample in samples:
            for name, value in sample.items():
                digest.update(name.encode())
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else pickle.dumps(value))
    return digest.hexdigest()


def _of_manifest(path: Path, source: Source) -> DataSection:
    """A manifest's section, as ``mmedge init`` proposes it, or that of a recipe file."""
    from mmedge import recipe as recipes
    from mmedge.data.wizard.propose import Wishes, propose

    if path.suffix.lower() in (".yaml", ".yml"):
        values = recipes.load(path).data.model_dump(mode="json", by_alias=True)
        return DataSection(values, {name: name for name in values["modalities"]}, path.resolve().parent)
    proposal = propose(path, Wishes(source.target, source.task, source.group))
    values = {
        "manifest": str(path.resolve()),
        "modalities": {
            name: spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"kind": spec.kind}
            for name, spec in proposal.modalities.items()
        },
        "target": proposal.target,
        "task": proposal.task,
        **{name: getattr(proposal, name) for name in ("id", "group", "split") if getattr(proposal, name)},
        **({"classes": list(source.classes)} if source.classes else {}),
    }
    values["modalities"] |= {name: dict(spec) for name, spec in source.modalities.items()}
    parameters = source.names if isinstance(source.names, Mapping) else {}
    return DataSection(
        values, {name: parameters.get(name, name) for name in values["modalities"]}, path.resolve().parent
    )
