"""A bundle of text, numbers with categories and a sensor, trained on real files: subsets, streams, profile, C++."""

import copy

import numpy as np
import pytest

from mmedge import runtime
from mmedge.errors import MmedgeError
from mmedge.pipeline import fold as pipeline
from mmedge.profiling import feeds, profile
from mmedge.progress import Silent
from mmedge.runtime.stream import Stream
from tests.data.made import MODALITIES, five_kinds, parsed, recipe_values

KINDS = ("words", "facts", "motion")
RAW = {
    "words": "a temple under a pale sky 宫殿",
    "facts": {"weight": 10.5, "height": None, "colour": "red"},
    "motion": np.ones((2, 50), np.float32),
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The bundle of one epoch of the teacher, with an engine for every subset and split engines."""
    folder = tmp_path_factory.mktemp("kinds")
    values = recipe_values(five_kinds(folder))
    values["data"]["modalities"] = {name: MODALITIES[name] for name in KINDS}
    values["teacher"] = copy.deepcopy(values["teacher"])
    model = values["teacher"]["model"]
    model["encoders"] = {name: model["encoders"][name] for name in KINDS}
    del values["distill"]
    values["export"] = {"per_subset": True, "split": True}
    values["measure"] = {"runs": 60, "warmup": 5, "bootstrap": 100}
    values["gates"] = "none"
    outcome = pipeline.run(parsed(values), folder / "out", code=folder, progress=Silent())
    assert outcome.exit_code == 0
    return folder / "out/bundle"


@pytest.fixture(scope="module")
def engine(kinds):
    return runtime.load(kinds)


def test_every_subset_answers_by_its_own_engine_as_the_whole_one_does(engine):
    assert engine._subset_files  # without the other encoders some are faster
    for names in engine._subset_files:
        given = {name: RAW[name] for name in names}
        tensors = engine.preprocess([given])
        whole = engine._run(tensors)
        alone = engine.run({name: tensors[name] for name in names})[next(iter(engine.contract.heads))]
        np.testing.assert_allclose(alone, whole[next(iter(engine.contract.heads))], atol=1e-5)
        expected = engine.predictions(whole)[0].probabilities
        assert engine.predict(**given).probabilities == pytest.approx(expected, abs=1e-5)


def test_a_text_that_is_absent_has_no_influence_whatever_ids_stand_there(engine):
    tensors = engine.preprocess([{name: RAW[name] for name in ("facts", "motion")}])
    expected = engine._run(tensors)[next(iter(engine.contract.heads))]
    tensors["words"] = tensors["words"] + 3
    np.testing.assert_array_equal(engine._run(tensors)[next(iter(engine.contract.heads))], expected)


def test_the_split_engine_keeps_the_embedding_of_a_text(engine):
    stream = Stream(engine, max_age_s=10)
    stream.update(0.0, **RAW)
    stream.update(1.0, motion=RAW["motion"] * 2)
    expected = engine.predict(**{**RAW, "motion": RAW["motion"] * 2})
    assert stream.predict(1.0).prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_the_profile_times_text_numbers_and_series_and_tells_their_branches(kinds):
    settings = profile.ProfileOptions(runs=20, idle_s=0.0, seconds=0.02, streams=(1,), batches=(1, 3))
    model = profile.measured([kinds], settings).record()["models"][0]
    assert set(KINDS) < set(model["branches"])
    for entry in model["batches"]:
        assert entry["end_to_end"]["p50_ms"] > entry["compute"]["p50_ms"] > 0
    assert model["load_ms"] > 0 and model["first_inference_ms"] > 0


def test_raw_values_to_time_with_are_taken_by_predict_in_batches(engine):
    assert len(engine.predict(**feeds.raw_values(engine.contract, 3))) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"words": ""}, "no token"),
        ({"words": 3}, "must be a text"),
        ({"words": "\ud800"}, "Unicode"),
        ({"facts": [1.0, 2.0]}, "the model takes"),
        ({"facts": {"weight": 1.0}}, "no value for"),
        ({"facts": [float("inf"), 1.0, "red"]}, "infinite"),
        ({"motion": np.zeros((3, 50), np.float32)}, "2"),
        ({"motion": np.full((2, 50), np.nan, np.float32)}, "NaN"),
        ({"motion": np.zeros((2, 0), np.float32)}, "motion"),
    ],
)
def test_bad_values_of_every_kind_are_told(engine, given, said):
    with pytest.raises(MmedgeError, match=said):
        engine.predict(**given)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "words": t["words"].astype(np.int32)},
        lambda t: {**t, "words": t["words"][:, :-1]},
        lambda t: {**t, "motion": t["motion"].astype(np.float64)},
        lambda t: {**t, "present": t["present"].astype(np.uint8)},
        lambda t: {**t, "present": t["present"][:, :1]},
        lambda t: {name: x[:0] for name, x in t.items()},
        lambda t: {**t, "motion": np.concatenate([t["motion"]] * 2)},
        lambda t: {**t, "motion": None},
        lambda t: {**t, "motion": [[1.0]]},
        lambda t: {},
        lambda t: {**t, "depth": t["motion"]},
        lambda t: {"words": np.int64(3)},
        lambda t: {"words": np.zeros((0, 12), np.int64)},
    ],
)
def test_tensors_of_another_shape_or_type_are_told(engine, change):
    with pytest.raises(MmedgeError):
        engine.run(change(engine.preprocess([RAW])))


def test_ids_beyond_the_vocabulary_are_told(engine):
    tensors = engine.preprocess([RAW])
    wrong = np.full_like(tensors["words"], 10**9)
    with pytest.raises(MmedgeError, match="does not run on these values"):
        engine.run({**tensors, "words": wrong})
    with pytest.raises(MmedgeError, match="does not run on these values"):
        engine.run({"words": wrong})
