"""What ships is held against itself one sample at a time: how it mixes a batch may show only when it is trained."""

import numpy as np
import pytest

from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.errors import MismatchError
from mmedge.measure.lengths import check_alone
from mmedge.spec import ArraySpec

CONTRACT = Contract(task="classification", labels=("a", "b"), modalities={"x": ArraySpec(kind="array", shape=(2,))})
X = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
SAMPLES = Samples(
    "validation", tuple(map(str, range(40))), {"x": X}, np.ones((40, 1), bool), {}, np.arange(40), CONTRACT.heads
)


def check(run, tmp_path):
    check_alone(run, CONTRACT, SAMPLES, 1e-4, tmp_path / "model.onnx")


def test_an_output_that_depends_on_the_rest_of_its_batch_is_a_mismatch_with_its_sample(tmp_path):
    check(lambda inputs: {"logits": inputs["x"] * 2}, tmp_path)
    with pytest.raises(MismatchError, match="depends on the rest of its batch") as told:
        check(lambda inputs: {"logits": inputs["x"] - 0.01 * inputs["x"].mean(0)}, tmp_path)
    assert told.value.where.endswith("model.onnx, sample 0") and told.value.exit_code == 5


@pytest.mark.parametrize("alone", [lambda x: x * np.nan, lambda x: x[:, :1], lambda x: x[0]])
def test_an_output_that_is_no_number_alone_or_of_another_shape_is_a_mismatch_too(tmp_path, alone):
    with pytest.raises(MismatchError, match="alone it is another"):
        check(lambda inputs: {"logits": inputs["x"] if len(inputs["x"]) > 1 else alone(inputs["x"])}, tmp_path)
