"""A user's dataset in code: ``module:build`` is called, written as files, and read back."""

import numpy as np
import pytest

from mmedge.data.store import samples
from mmedge.errors import MmedgeError, UsageError
from mmedge.progress import Silent
from tests.conftest import parsed

DATASET = """\
import numpy as np

def build(split, n=20, shift=0):
    rng = np.random.default_rng(len(split))
    return [
        {
            "id": f"{split}{i}",
            "image": rng.integers(0, 256, (8, 8), np.uint8),
            "sound": (np.sin(np.arange(800) * (1 + i % 2) * 0.3).astype(np.float32), 8000) if i % 4 else None,
            "series": np.full((2, 3), i + SHIFT, np.float32),
            "vitals": {"a": i, "b": -i},
            "label": "ab"[i % 2],
        }
        for i in range(n)
    ]
"""


def user_dataset(tmp_path, name, attribute="build", text=DATASET):
    (tmp_path / f"{name}.py").write_text(text.replace("SHIFT", "0"))
    values = {
        "name": "t",
        "data": {
            "dataset": f"{name}:{attribute}",
            "args": {"n": 12},
            "modalities": {
                "image": {"kind": "image", "height": 8, "width": 8, "channels": 1},
                "sound": {"kind": "audio", "sample_rate": 8000, "mels": 8, "frames": 8},
                "series": {"kind": "array", "shape": [2, 3]},
                "vitals": {"kind": "tabular", "columns": ["a", "b"]},
            },
        },
    }
    return samples.prepare(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())


def test_a_users_dataset_of_arrays_is_written_as_files_and_read_back(tmp_path):
    made = user_dataset(tmp_path, "arrays_a")
    assert len(made.train) == 12 and made.contract.heads["logits"].labels == ("a", "b")
    assert {name: x.shape[1:] for name, x in made.train.inputs.items()} == {
        "image": (1, 8, 8),
        "sound": (1, 8, 8),
        "series": (2, 3),
        "vitals": (2,),
    }
    np.testing.assert_array_equal(made.train.present[:, 1], [i % 4 != 0 for i in range(12)])
    assert made.train.ids == tuple(f"train{i}" for i in range(12))
    assert len(list((tmp_path / "out" / "data" / "image").glob("*.png"))) == 36


def test_a_users_dataset_whose_code_changed_is_built_again(tmp_path):
    import sys

    first = user_dataset(tmp_path, "arrays_b")
    sys.modules.pop("arrays_b")  # as in the next process
    second = user_dataset(tmp_path, "arrays_b", text=DATASET.replace("SHIFT", "0 if i else 50"))
    assert second.sha256 != first.sha256


@pytest.mark.parametrize(
    ("name", "attribute", "text", "said"),
    [
        ("arrays_c", "biuld", DATASET, "did you mean 'build'"),
        ("arrays_d", "build", "def build(split, n): return []", "train split is empty"),
        ("arrays_e", "build", "def build(split, n): return [{'image': [[0.5]], 'label': 'a'}]", "uint8 pixels"),
        ("arrays_f", "build", "def build(split, n): return [{'vitals': [1], 'label': 'a'}]", "1 values for 2 columns"),
    ],
)
def test_a_wrong_dataset_is_told(tmp_path, name, attribute, text, said):
    with pytest.raises((MmedgeError, UsageError), match=said):
        user_dataset(tmp_path, name, attribute, text)


READER = """\
import numpy as np
import other_MODULE

def build(split, path=None):
    labels = np.load(path or HERE)["labels"]
    return [{"id": f"{split}{i}", "vitals": {"a": i}, "label": "ab"[label] + other_MODULE.SUFFIX} for i, label in enumerate(labels)]
"""


def labels_of(tmp_path, name, args):
    """The training labels of a dataset that reads ``data.npz``, prepared anew as by the next process."""
    import sys

    sys.modules.pop(name, None)
    sys.modules.pop(f"other_{name}", None)
    text = READER.replace("HERE", repr(str(tmp_path)) + " + '/' + 'data' + '.npz'").replace("MODULE", name)
    (tmp_path / f"{name}.py").write_text(text)
    modalities = {"vitals": {"kind": "tabular", "columns": ["a"]}}
    values = {"name": "t", "data": {"dataset": f"{name}:build", "args": args, "modalities": modalities}}
    made = samples.prepare(parsed(values), tmp_path / "out", code=tmp_path, progress=Silent())
    return [made.contract.heads["logits"].labels[target] for target in made.train.targets["logits"]], made.sha256


@pytest.mark.parametrize("name", ["named_by_an_argument", "named_by_nobody"])
def test_a_dataset_is_built_again_where_a_file_that_it_reads_or_a_module_that_it_imports_changed(tmp_path, name):
    args = {"path": str(tmp_path / "data.npz")} if name == "named_by_an_argument" else {}
    (tmp_path / f"other_{name}.py").write_text("SUFFIX = ''\n")
    np.savez(tmp_path / "data.npz", labels=[0, 1, 0])
    assert labels_of(tmp_path, name, args)[0] == ["a", "b", "a"]
    np.savez(tmp_path / "data.npz", labels=[1, 1, 0])
    assert labels_of(tmp_path, name, args)[0] == ["b", "b", "a"]
    (tmp_path / f"other_{name}.py").write_text("SUFFIX = 'x'\n")
    assert labels_of(tmp_path, name, args)[0] == ["bx", "bx", "ax"]


def test_a_dataset_that_is_interrupted_is_not_taken_for_the_one_before(tmp_path):
    name = "interrupted_later"
    (tmp_path / f"other_{name}.py").write_text("SUFFIX = ''\n")
    np.savez(tmp_path / "data.npz", labels=[0, 1, 0])
    first = labels_of(tmp_path, name, {})
    (tmp_path / f"other_{name}.py").write_text("SUFFIX = 'x'\n")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(samples, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        labels_of(tmp_path, name, {})
    assert (tmp_path / "out" / "data" / "train.csv").read_text().count("ax")
    (tmp_path / f"other_{name}.py").write_text("SUFFIX = ''\n")
    assert labels_of(tmp_path, name, {}) == first


def test_a_manifest_that_was_changed_by_hand_is_written_again(tmp_path):
    name = "changed_by_hand"
    (tmp_path / f"other_{name}.py").write_text("SUFFIX = ''\n")
    np.savez(tmp_path / "data.npz", labels=[0, 1, 0])
    first = labels_of(tmp_path, name, {})
    manifest = tmp_path / "out" / "data" / "train.csv"
    manifest.write_text(manifest.read_text().replace(",a", ",b"))
    assert labels_of(tmp_path, name, {}) == first


def test_recordings_count_by_their_bytes(tmp_path):
    (tmp_path / "1_a_1.wav").write_bytes(b"one")
    modalities = {"audio": {"kind": "audio", "sample_rate": 8000, "mels": 8, "frames": 8}}
    values = {"dataset": "avdigits", "recordings": str(tmp_path), "modalities": modalities}
    data = parsed({"name": "t", "data": values}).data
    before = samples._source_state(data, tmp_path, Silent())
    (tmp_path / "1_a_1.wav").write_bytes(b"two")
    assert samples._source_state(data, tmp_path, Silent()) != before
