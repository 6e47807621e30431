"""Labels' vectors that a bundle has are those of one tower, and a sample of another is held against them."""

import numpy as np
import pytest

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.runtime.embedding import Embedding
from mmedge.runtime.labels import LabelVectors
from mmedge.spec import TextSpec

TEXT = TextSpec(kind="text", length=4)
HEAD = {"task": "retrieval", "towers": {"asked": ["question"], "told": ["answer"]}, "dimensions": 2}
CONTRACT = Contract.model_validate({"modalities": {"question": TEXT, "answer": TEXT}, "heads": {"y": HEAD}})
LABELS = ("no", "yes")


def outputs(samples):
    """The tower ``told`` gives an axis of its own to each label, and ``asked`` gives both the other's."""
    axis = {"no": [1.0, 0.0], "yes": [0.0, 1.0]}
    rows = [
        axis[sample.get("question", "no")][::-1] + axis[sample.get("answer", "no")]
        for sample in samples
    ]  # fmt: skip
    return {"y": np.array(rows, np.float32)}


def test_a_tower_is_not_held_against_vectors_of_its_own():
    own = LabelVectors(LABELS, "{}", np.eye(2, dtype=np.float32), "told")
    found = Embedding(CONTRACT, outputs, "b", own)
    assert found.classify({"question": "no"}, None, None).label == "yes"
    # By ``asked``, which reads "yes" as ``told`` reads "no"; and each set of vectors is kept by its tower.
    assert found.classify({"answer": "no"}, None, None).label == "yes"
    without = Embedding(CONTRACT, outputs, "b")
    for _ in range(2):
        assert without.classify({"question": "no"}, LABELS, None).label == "yes"
        assert without.classify({"answer": "no"}, LABELS, None).label == "yes"


def test_labels_are_read_by_no_tower_that_asks_alone():
    alone = CONTRACT.only(["answer"])
    own = LabelVectors(LABELS, "{}", np.eye(2, dtype=np.float32), "told")
    with pytest.raises(UsageError, match="no other tower of the bundle reads texts"):
        Embedding(alone, lambda x: {"y": outputs(x)["y"][:, 2:]}, "b", own).classify({"answer": "no"}, None, None)
