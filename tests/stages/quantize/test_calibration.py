"""What INT8 is calibrated on: training samples, of every class, with modalities missing, as many as suffice."""

import numpy as np
import pytest

from mmedge.errors import MismatchError, MmedgeError
from mmedge.recipe import Quantize
from mmedge.report.schema import CurveRecord
from mmedge.stages import quantize
from mmedge.stages.quantize import calibration, ptq
from mmedge.stages.quantize.calibration import calibration_inputs, calibration_rows
from tests.conftest import staged


def test_calibration_takes_training_rows_spread_over_the_classes(dataset):
    rows = calibration_rows(dataset.train, 40, seed=0)
    assert len(set(rows)) == 40 and (np.bincount(dataset.train.targets["logits"][rows], minlength=10) == 4).all()
    assert set(calibration_rows(dataset.train, 10_000, seed=0)) == set(range(240))


def test_quantize_calibrates_on_the_training_split_and_with_modalities_missing(
    finished, context, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        ptq,
        "int8",
        lambda graph, target, inputs, variant: (seen.extend(inputs), target.write_bytes(graph.graph.read_bytes())),
    )
    config = Quantize(candidates=("fp32", "int8"), calibration=40, require="int8")
    with pytest.raises(MismatchError, match="no 8-bit kernel"):  # the copy is FP32: told, not believed
        staged(quantize.quantize, finished.artifact("prune"), config, context, tmp_path / "q")
    train = {x.tobytes() for x in np.asarray(context.dataset.train.inputs["image"])}
    assert len(seen) == 40 and all(sample["image"][0].tobytes() in train for sample in seen)
    assert {tuple(sample["present"][0]) for sample in seen} == {(True, True), (True, False), (False, True)}
    assert all(sample["image"].any() and sample["audio"].any() for sample in seen)


def test_calibration_grows_until_the_ranges_rest(graphs, context):
    """The same sample again and again rests at once; samples that grow never do."""
    sample = calibration_inputs(context.dataset.train, np.arange(1), 0)[0]
    count, curve = calibration.converged(graphs[1], [sample] * 200)
    assert (count, curve) == (64, [CurveRecord(samples=64, change=0.0)])
    growing = [{**sample, "image": sample["image"] * np.float32(1 + n)} for n in range(130)]
    count, curve = calibration.converged(graphs[1], growing)
    assert count == 130 and [point.samples for point in curve] == [64, 128, 130]
    assert curve[0].change > 0.3


def test_a_sample_that_makes_a_tensor_infinite_or_nan_is_told_by_its_number(graphs, context):
    sample = calibration_inputs(context.dataset.train, np.arange(1), 0)[0]
    with pytest.raises(MmedgeError, match="calibration sample 3 makes '.*' NaN or infinite"):
        calibration.converged(graphs[1], [sample, sample, {**sample, "image": sample["image"] * np.float32(np.nan)}])


def test_a_missing_class_and_a_modality_that_is_never_absent_or_never_there_are_told(context):
    train, contract = context.dataset.train, context.dataset.contract
    rows = np.flatnonzero(train.targets["logits"] != 7)
    inputs = calibration_inputs(train, rows, 0)
    assert calibration.gaps(train, rows, inputs, contract) == ["no sample of the classes 7"]
    whole = [{**sample, "present": np.array([[True, False]])} for sample in inputs]
    gaps = calibration.gaps(train, np.arange(240), whole, contract)
    assert [gap[:16] for gap in gaps] == ["every sample has", "no sample has au"]
