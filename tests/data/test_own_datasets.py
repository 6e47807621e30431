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
    assert len(made.train) == 12 and made.contract.labels == ("a", "b")
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
