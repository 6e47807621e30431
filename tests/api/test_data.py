"""Every kind of data that a caller may have gives the same samples, and what cannot be read is told in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import mmedge
from mmedge import recipe
from mmedge.api import dataset
from mmedge.api.data import Columns
from mmedge.api.networks import network
from mmedge.data.store import samples
from mmedge.errors import MmedgeError, UnlabelledData, UnmatchedInputs, UnreadableData, UsageError
from mmedge.preprocess import tensor
from mmedge.progress import Silent
from tests.api import digits


class Flat(torch.nn.Module):
    """One input of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


class Dicts(Dataset):
    """A map-style dataset of dicts, as many torch datasets are."""

    def __len__(self) -> int:
        return 300

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: torch.as_tensor(x[row]) for name, x in digits.arrays().items()}


def tensors() -> TensorDataset:
    return TensorDataset(*(torch.from_numpy(x) for x in digits.arrays().values()))


def nested(batch: list[Any]) -> Any:
    upper, lower, label = (torch.stack(part) for part in zip(*batch))
    return (upper, lower), label


def prepared(data: Any, out: Path, model: Any = None) -> samples.Dataset:
    """The samples as a run sees them, from the files that it writes."""
    given = dataset.given(data, network(model or digits.Halves()), seed=0)
    parsed = recipe.parse({"schema": 1, "name": "given", "data": given.values}, where=Path("test"))
    found = samples.prepare(parsed, out, code=out, progress=Silent())
    return found


def hugging_face() -> Any:
    datasets = pytest.importorskip("datasets")
    held = digits.arrays()
    features = datasets.Features(
        upper=datasets.Array3D((1, 4, 8), "float32"),
        lower=datasets.Array3D((1, 4, 8), "float32"),
        label=datasets.ClassLabel(names=[str(digit) for digit in range(10)]),
    )
    return datasets.Dataset.from_dict({name: list(x) for name, x in held.items()}, features=features)


KINDS = {
    "arrays": lambda: digits.arrays(),
    "loader of 3-tuples": lambda: DataLoader(tensors(), batch_size=64),
    "loader that shuffles and drops": lambda: DataLoader(tensors(), batch_size=64, shuffle=True, drop_last=True),
    "loader that draws with replacement": lambda: DataLoader(
        tensors(), 64, sampler=WeightedRandomSampler([1.0] * 300, 90)
    ),
    "loader of some": lambda: DataLoader(tensors(), 64, sampler=SubsetRandomSampler(range(300))),
    "loader of nested tuples": lambda: DataLoader(tensors(), batch_size=50, collate_fn=nested),
    "loader of dicts": lambda: DataLoader(Dicts(), batch_size=100),
    "dataset of dicts": lambda: Dicts(),
    "list of samples": lambda: [Dicts()[row] for row in range(300)],
    "Hugging Face": hugging_face,
    "frame of arrays": lambda: pandas.DataFrame({name: list(x) for name, x in digits.arrays().items()}),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> samples.Dataset:
    return prepared(digits.arrays(), tmp_path_factory.mktemp("arrays"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_samples(kind):
    """The dataset's name holds the hash of all samples, in their order and splits."""
    taker = network(digits.Halves())
    found, expected = (dataset.given(data, taker, seed=0) for data in (KINDS[kind](), digits.arrays()))
    assert found.values == expected.values
    assert found.values["classes"] == list(map(str, range(10)))
    assert found.keeps("test")[0]["upper"].tobytes() == expected.keeps("test")[0]["upper"].tobytes()


def test_values_reach_the_network_bit_for_bit_and_every_sample_is_in_one_split(expected):
    held = digits.arrays()
    parts = [expected.train, expected.validation, expected.test]
    given = {x.tobytes(): label for x, label in zip(np.concatenate([held["upper"], held["lower"]], 3), held["label"])}
    seen = 0
    for part in parts:
        rows = np.concatenate([part.inputs["upper"], part.inputs["lower"]], 3)
        for x, target in zip(rows, part.targets["logits"]):
            assert given[x.tobytes()] == target
            seen += 1
    assert seen == 300


@pytest.mark.parametrize("library", [pandas, polars])
def test_a_frame_of_numbers_is_the_one_input_of_a_network(library, tmp_path):
    held = digits.arrays()
    pixels = np.concatenate([held["upper"], held["lower"]], 3).reshape(300, 64)
    frame = library.DataFrame({**{f"p{column}": pixels[:, column] for column in range(64)}, "label": held["label"]})
    found = prepared(frame, tmp_path, Flat())
    assert found.contract.modalities["x"].shape == (64,)
    assert {x.tobytes() for x in found.test.inputs["x"]} <= {x.tobytes() for x in pixels}


def test_splits_of_the_datas_own_are_kept_and_a_missing_one_is_drawn_from_training(tmp_path):
    held = digits.arrays()
    cut = {
        "train": {name: x[:250] for name, x in held.items()},
        "test": {name: x[250:] for name, x in held.items()},
    }
    found = prepared(cut, tmp_path)
    np.testing.assert_array_equal(found.test.inputs["upper"], held["upper"][250:])
    assert len(found.test) == 50 and len(found.train) + len(found.validation) == 250 and len(found.validation) > 25


def test_unknown_labels_and_missing_inputs_stay_in_training(tmp_path):
    held = digits.arrays()
    label = np.where(np.arange(300) % 2, held["label"], -1)
    upper = [None if row % 10 == 1 else x for row, x in enumerate(held["upper"])]
    found = prepared({"upper": upper, "lower": held["lower"], "label": label}, tmp_path)
    assert found.test.labelled.all() and found.validation.labelled.all()
    assert int(found.train.labelled.sum()) < len(found.train)
    assert sum(int((~part.present[:, 0]).sum()) for part in (found.train, found.validation, found.test)) == 30


def test_a_task_that_does_not_exist_is_told_with_a_near_one(tmp_path):
    with pytest.raises(UsageError, match="unknown task 'clasification'.*did you mean 'classification'"):
        prepared(mmedge.samples(digits.arrays(), task="clasification"), tmp_path)


def test_modalities_stand_in_the_order_of_the_inputs():
    names = [f"sensor{number}" for number in (5, 2, 9, 1, 7, 3, 8, 0)]  # a set of eight has this order by luck alone
    held = Columns()
    held.add(dict.fromkeys(names[:6], 0.0), 1, None)
    held.add(dict.fromkeys(names, 0.0), 1, None)
    assert list(held.inputs) == names and held.inputs["sensor0"] == [None, 0.0]


def test_a_group_stays_in_one_split(tmp_path):
    group = np.arange(300) // 6
    data = mmedge.samples({**digits.arrays(), "who": group}, group="who")
    found = prepared(data, tmp_path)
    assert found.contract.modalities.keys() == {"upper", "lower"}
    held = digits.arrays()["upper"]
    of = {x.tobytes(): who for x, who in zip(held, group)}
    parts = [{of[x.tobytes()] for x in part.inputs["upper"]} for part in (found.train, found.test)]
    assert not parts[0] & parts[1]


@pytest.mark.parametrize(
    ("label", "task", "labels"),
    [
        (lambda label: label.astype(np.float32) + 0.5, "regression", ()),
        (lambda label: np.eye(10, dtype=np.int64)[label] | np.eye(10, dtype=np.int64)[(label + 1) % 10], "multilabel", tuple(map(str, range(10)))),
        (lambda label: np.array(list("abcdefghij"))[label], "classification", tuple("abcdefghij")),
    ],
)  # fmt: skip
def test_labels_tell_the_task(label, task, labels, tmp_path):
    held = digits.arrays()
    found = prepared({**held, "label": label(held["label"])}, tmp_path)
    (head,) = found.contract.heads.values()
    assert (head.task, head.labels) == (task, labels)


def test_labels_that_are_arrays_or_lists_of_numbers_are_frames_and_values(tmp_path):
    class Frames(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).reshape(-1, 4, 3)

    x = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
    for y, task, head in ((x[:, :12].reshape(60, 4, 3), "frames", (4, 3)), (x[:, :2], "regression", ())):
        found = prepared({"x": x, "y": y}, tmp_path / task, Frames())
        (described,) = found.contract.heads.values()
        assert described.task == task and described.shape == head and len(described.values) == (0 if head else 2)
        row = found.train.inputs["x"][0, :12] if head else found.train.inputs["x"][0, :2]
        np.testing.assert_allclose(next(iter(found.train.targets.values()))[0], row, rtol=1e-5)


def test_a_manifest_is_read_as_init_proposes_it(media, tmp_path):
    given = dataset.given(media / "manifest.csv", network({"hidden": 8}), seed=0)
    assert set(given.values["modalities"]) == {"image", "audio"} and given.values["target"] == "label"
    recipe.parse({"schema": 1, "name": "table", "data": given.values}, where=Path("test"))


def test_an_npz_is_its_arrays(tmp_path, expected):
    np.savez(tmp_path / "d.npz", **digits.arrays())
    found = prepared(str(tmp_path / "d.npz"), tmp_path / "out")
    np.testing.assert_array_equal(found.test.inputs["lower"], expected.test.inputs["lower"])


def test_raw_values_are_preprocessed_as_the_caller_says(tmp_path):
    from PIL import Image

    pixels = [Image.fromarray((x[0] * 255).astype(np.uint8)) for x in digits.arrays()["upper"][:60]]
    spec = {"photo": {"kind": "image", "height": 4, "width": 8, "channels": 1}}
    data = {"photo": pixels, "label": digits.arrays()["label"][:60] % 2}
    found = prepared(mmedge.samples(data, modalities=spec), tmp_path, {"hidden": 8})
    assert found.contract.modalities["photo"].kind == "image"
    assert found.train.inputs["photo"][:].std() == pytest.approx(1, abs=0.1)


def test_columns_of_a_frame_are_a_table_beside_pictures(tmp_path):
    from PIL import Image

    held = digits.arrays()
    frame = pandas.DataFrame(
        {
            "photo": [Image.fromarray((x[0] * 255).astype(np.uint8)) for x in held["upper"][:60]],
            "age": [float(row) if row % 7 else float("nan") for row in range(60)],
            "sex": [["f", "m", None][row % 3] for row in range(60)],
            "label": held["label"][:60] % 2,
        }
    )
    spec = {
        "photo": {"kind": "image", "height": 4, "width": 8, "channels": 1},
        "patient": {"kind": "tabular", "columns": ["age"], "categorical": ["sex"]},
    }
    found = prepared(mmedge.samples(frame, modalities=spec), tmp_path, {"hidden": 8})
    assert found.contract.modalities["patient"].categories == {"sex": ("f", "m")}
    assert found.train.inputs["patient"].shape[1:] == (4,) and found.train.present[:, 1].mean() < 1
    spec["patient"]["columns"] = ["aje"]
    with pytest.raises(UnreadableData, match="no column 'aje' .did you mean 'age'"):
        prepared(mmedge.samples(frame, modalities=spec), tmp_path, {"hidden": 8})


def refused(data: Any, kind: type[Exception], model: Any = None) -> str:
    with pytest.raises(kind) as caught:
        dataset.given(data, network(model or digits.Halves()), seed=0)
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_a_generator_is_refused_since_it_can_be_read_once_only():
    def once() -> Iterator[Any]:
        yield from (Dicts()[row] for row in range(10))

    assert "once only" in refused(once(), UnreadableData)


def test_a_loader_that_yields_something_else_says_what_was_got_and_what_is_wanted():
    said = refused(DataLoader(tensors(), batch_size=8, collate_fn=lambda batch: object()), UnreadableData)
    assert "object" in said and "DataLoader" in said and "tuple" in said
    assert "an int (7)" in refused([7, 7], UnreadableData)
    assert "yields no sample" in refused([], UnreadableData)
    assert "no data that can be read" in refused(12, UnreadableData)


def test_parts_that_cannot_be_matched_to_forward_say_how_to_name_them():
    four = TensorDataset(*(torch.from_numpy(digits.arrays()[name]) for name in ("upper", "lower", "lower", "label")))
    said = refused(DataLoader(four, batch_size=64), UnmatchedInputs)
    assert "4 parts" in said and "names=['upper', 'lower', 'label']" in said
    other = {"top": digits.arrays()["upper"], "bottom": digits.arrays()["lower"], "label": digits.arrays()["label"]}
    assert "'upper', 'lower'" in refused(other, UnmatchedInputs)
    named = mmedge.samples(other, names={"top": "upper", "bottom": "lower"})
    given = dataset.given(named, network(digits.Halves()), seed=0)
    assert given.model(network(digits.Halves()))["inputs"] == {"top": "upper", "bottom": "lower"}


def test_a_loader_of_4_tuples_is_three_inputs_and_the_label(tmp_path):
    class Three(digits.Halves):
        def forward(self, upper: torch.Tensor, lower: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return super().forward(upper, lower) + bias

    held = [torch.from_numpy(x) for x in digits.arrays().values()]
    four = TensorDataset(held[0], held[1], held[0].flatten(1)[:, :1], held[2])
    found = prepared(DataLoader(four, batch_size=64), tmp_path, Three())
    assert {name: spec.shape for name, spec in found.contract.modalities.items()} == {
        "upper": (1, 4, 8), "lower": (1, 4, 8), "bias": (1,),
    }  # fmt: skip


def test_labels_are_asked_for_where_they_are_needed():
    bare = {name: x for name, x in digits.arrays().items() if name != "label"}
    assert "no label" in refused(bare, UnlabelledData)
    assert "test split" in refused(
        {"train": digits.arrays(), "validation": digits.arrays(), "test": bare}, UnlabelledData
    )


def test_what_does_not_fit_the_models_output_is_told():
    held = digits.arrays()
    assert "label 12" in refused({**held, "label": held["label"] + 3}, UsageError)
    assert "one column for two classes" in refused(
        {"x": np.zeros((40, 64), np.float32), "y": np.arange(40) % 2}, UsageError, torch.nn.Linear(64, 1)
    )
    assert "2 classes" in refused({**held, "label": np.array(["no", "yes"])[held["label"] % 2]}, UsageError)


def test_values_that_no_model_takes_are_told():
    held = digits.arrays()
    assert "modalities=" in refused({**held, "upper": ["a text"] * 300}, UnreadableData)
    ragged = [np.zeros((1, 4, 8 + row % 2), np.float32) for row in range(300)]
    assert "one shape" in refused({**held, "upper": ragged}, UnreadableData)
    assert "different lengths" in refused({**held, "upper": held["upper"][:3]}, UnreadableData)
    frame = pandas.DataFrame({"a": [1.0, float("nan")] * 30, "label": [0, 1] * 30})
    assert "row 1" in refused(frame, UnreadableData, torch.nn.Linear(1, 2))


class Looked(torch.nn.Module):
    """Looks up words, [N, 6], and a category, [N] or, where ``rows``, [N, 1]; the rest are numbers."""

    def __init__(self, *, rows: bool = False) -> None:
        super().__init__()
        self.words, self.kinds = torch.nn.Embedding(50, 8), torch.nn.Embedding(4, 8)
        self.rows, self.head = rows, torch.nn.Linear(8 + 3, 10)

    def forward(self, words: torch.Tensor, kind: torch.Tensor, counts: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        assert kind.dim() == 1 + self.rows
        kinds = self.kinds(kind[:, 0] if self.rows else kind)
        return self.head(torch.cat([self.words(words).mean(1) + kinds, counts, age], 1))


@pytest.mark.parametrize("rows", [False, True])
def test_whole_numbers_are_ids_where_the_network_looks_them_up_and_numbers_elsewhere(rows, tmp_path):
    random, label = np.random.default_rng(0), digits.arrays()["label"]
    held = {
        "words": random.integers(0, 50, (300, 6)),
        "kind": random.integers(0, 4, 300),
        "counts": random.integers(0, 9, (300, 2), np.int16),
        "age": random.integers(0, 90, 300),
        "label": label,
    }
    model = Looked(rows=rows)
    found = prepared(held, tmp_path, model)
    shapes = {name: (spec.dtype, spec.shape) for name, spec in found.contract.modalities.items()}
    assert shapes == {
        "words": ("int64", (6,)), "kind": ("int64", (1,) if rows else ()), "counts": ("float32", (2,)), "age": ("float32", (1,)),
    }  # fmt: skip
    words = {x.tobytes() for x in held["words"]}
    assert found.test.inputs["words"].dtype == np.int64 and {x.tobytes() for x in found.test.inputs["words"]} <= words
    few = {name: x[:5] for name, x in found.test.inputs.items()}
    assert next(iter(network(model).call(few).values())).shape == (5, 10)
    bundled = tensor(found.contract.modalities["words"], held["words"][0].tolist())
    np.testing.assert_array_equal(bundled, held["words"][0])
    with pytest.raises(MmedgeError, match="holds 50, and its ids are 0 to 49"):
        tensor(found.contract.modalities["words"], [50, 0, 0, 0, 0, 0], "words")


def test_reserved_names_are_called_otherwise():
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(64, 10)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.head(inputs)

    taker = network(Named())
    given = dataset.given([(np.zeros(64, np.float32), row % 10) for row in range(60)], taker, seed=0)
    assert set(given.values["modalities"]) == {"inputs_input"}
    assert given.model(taker)["inputs"] == {"inputs_input": "inputs"}
