"""Samples that are decoded when they are read: the same tensors, no store, and unreadable files counted, named and skipped."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmedge import preprocess
from mmedge.data.store import samples
from mmedge.data.store.rows import Reading
from mmedge.errors import MmedgeError
from mmedge.progress import Silent
from mmedge.recipe import Augment, Mix, Train
from mmedge.training.loop import feeding
from mmedge.training.loop.batches import Training
from mmedge.training.loop.feeding import Feed
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Supervised
from tests.conftest import parsed

COUNT = 96


def prepared(folder, *, stream=True, broken=(), out="out", **data):
    rng = np.random.default_rng(0)
    rows = []
    for row in range(COUNT):
        file = folder / f"{row}.png"
        if not file.exists():
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
        split = ("train", "train", "train", "validation", "test", "train")[row // 2 % 6]
        rows.append([f"s{row}", f"{row}.png" if row % 8 != 1 else "", row, "ab"[row % 2], split])
    for row in broken:
        (folder / f"{row}.png").write_bytes(b"broken")
    with (folder / "m.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["id", "photo", "number", "label", "split"], *rows])
    photo = {"kind": "image", "height": 8, "width": 8}
    modalities = {"photo": photo, "numbers": {"kind": "tabular", "columns": ["number"]}}
    given = {"manifest": str(folder / "m.csv"), "id": "id", "split": "split", "modalities": modalities, **data}
    recipe = parsed({"name": "t", "data": {**given, "stream": stream}})
    return samples.prepare(recipe, folder / out, code=folder, progress=Silent())


def fed(dataset, workers=0, **schedule):
    train = Train(batch_size=8, epochs=1, augment={"photo": Augment(flip=0.5)}, **schedule)
    part, rows = dataset.train, np.arange(len(dataset.train))
    reading = Reading(batch_workers=workers, stream=True, unreadable=dataset.reading.unreadable)
    return Feed(Training(dataset.contract, part, part, train, rows, 0, 0, reading=reading), torch.device("cpu"))


def test_a_stream_gives_the_tensors_of_the_store_and_writes_no_picture(tmp_path):
    stored, streamed = prepared(tmp_path, stream=False, out="stored"), prepared(tmp_path)
    assert streamed.contract == stored.contract and streamed.reading.stream
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(streamed, split), getattr(stored, split)
        np.testing.assert_array_equal(ours.present, theirs.present)
        for name, x in ours.inputs.items():
            np.testing.assert_array_equal(np.asarray(x), np.asarray(theirs.inputs[name]))
    seen = np.flatnonzero(streamed.train.present[:, 0])[3]
    number = streamed.train.ids[seen].removeprefix("s")
    expected = preprocess.tensor(streamed.contract.modalities["photo"], tmp_path / f"{number}.png")
    np.testing.assert_array_equal(streamed.train.inputs["photo"][seen], expected)
    files = [file.name for file in (tmp_path / "out" / ".work").glob("*/photo-*/*.npy")]
    assert files == ["train.000.npy"]  # what statistics were fitted on


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_unreadable_files_are_skipped_counted_and_named(tmp_path, workers, monkeypatch):
    dataset = prepared(tmp_path, broken=(2, 16), unreadable=0.02)
    feed = fed(dataset, workers)
    batches = list(feed.batches(0))
    left = {dataset.train.ids[row] for row in feed.unreadable}
    assert left == {"s2", "s16"} and sum(len(batch.index) for batch in batches) == len(dataset.train) - 2
    for batch in batches:
        assert len(batch.index) == len(batch.inputs["photo"]) == len(batch.present) == len(batch.targets["logits"])
        assert not set(batch.index) & set(feed.unreadable)
    (told,) = feed.advice()
    assert told.startswith("2 training samples could not be read and were skipped: s")
    monkeypatch.setattr(feeding, "_JUDGED", 10)
    with pytest.raises(MmedgeError, match=r"training samples cannot be read.*png\n.*sample s.*\n.*data.unreadable"):
        list(fed(dataset, workers).batches(0))


class Net(nn.Module):
    """With batch norm, which needs two samples."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, present, photo, numbers):
        return {"logits": self.layers(photo)}


def test_a_batch_of_which_no_file_can_be_read_is_no_step(tmp_path):
    dataset = prepared(tmp_path, broken=range(0, COUNT, 2), unreadable=0.9)
    train, rows = Train(batch_size=2, epochs=1, modality_dropout=0.0, ema=0.9), np.arange(len(dataset.train))
    reading = Reading(stream=True, unreadable=0.9)
    few = dataset.validation.taken(np.flatnonzero([int(name[1:]) % 2 for name in dataset.validation.ids]))
    training = Training(dataset.contract, dataset.train, few, train, rows, 0, 0, reading=reading)
    torch.manual_seed(0)
    module = Net()
    sizes = [len(batch.index) for batch in Feed(training, torch.device("cpu")).batches(0)]
    assert {0, 1, 2} == set(sizes)
    fitted = fit(
        module, Supervised(dataset.contract, train), training, state=tmp_path / "s", task="t", progress=Silent()
    )
    assert 0 < fitted.history[0]["loss"] < 1
    assert all(torch.isfinite(weight).all() for weight in module.state_dict().values())


def test_a_sample_whose_partner_in_a_mix_cannot_be_read_is_skipped_too(tmp_path):
    dataset = prepared(tmp_path, broken=(2,), unreadable=0.5)
    feed = fed(dataset, mix=Mix(alpha=1.0))
    batches = list(feed.batches(0))
    assert len(dataset.train) - sum(len(batch.index) for batch in batches) >= 1
    assert all(len(batch.partners["logits"]) == len(batch.index) for batch in batches)


def test_a_file_of_the_test_split_that_cannot_be_read_is_an_error(tmp_path):
    dataset = prepared(tmp_path, broken=(8,))
    with pytest.raises(MmedgeError, match=r"not an image.*\n.*sample s8: .*8\.png"):
        np.asarray(dataset.test.inputs["photo"])


def test_pictures_of_many_sizes_and_modes_are_one_batch_and_a_series_of_another_shape_is_skipped(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for row in range(24):
        size = (8 + row, 30 - row) if row % 3 else (8, 8, 4)  # gray, or of four channels
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / f"{row}.png")
        np.save(tmp_path / f"{row}.npy", rng.normal(size=(2, 6 if row != 4 else 7)).astype(np.float32))
        split = ("train", "train", "validation", "test")[row // 2 % 4]
        rows.append([f"s{row}", f"{row}.png", f"{row}.npy", "ab"[row % 2], split if row != 4 else "train"])
    with (tmp_path / "m.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["id", "photo", "series", "label", "split"], *rows])
    modalities = {"photo": {"kind": "image", "height": 8, "width": 8}, "series": {"kind": "array", "shape": [2, 6]}}
    data = {"manifest": str(tmp_path / "m.csv"), "id": "id", "split": "split", "modalities": modalities}
    recipe = parsed({"name": "t", "data": {**data, "stream": True, "unreadable": 0.1}})
    dataset = samples.prepare(recipe, tmp_path / "out", code=tmp_path, progress=Silent())
    feed = fed(dataset)
    batches = list(feed.batches(0))
    assert [dataset.train.ids[row] for row in feed.unreadable] == ["s4"]
    assert "shape [2, 7]" in next(iter(feed.unreadable.values()))
    assert all(batch.inputs["photo"].shape[1:] == (3, 8, 8) and len(batch.inputs["series"]) == len(batch.index) for batch in batches)  # fmt: skip
