"""Engines of fewer modalities, the streams helper, and what run() and load() refuse."""

import asyncio
import threading

import numpy as np
import pytest

from mmedge import artifact, runtime
from mmedge.errors import MmedgeError, UsageError
from mmedge.runtime.stream import Stream, answers, predictions


@pytest.fixture(scope="module")
def engine(made_bundle):
    return runtime.load(made_bundle)


def tensors(batch=2):
    random = np.random.default_rng(0)
    return {
        "image": random.standard_normal((batch, 1, 8, 8)).astype(np.float32),
        "vitals": random.standard_normal((batch, 3)).astype(np.float32),
    }


@pytest.mark.parametrize("name", ["image", "vitals"])
def test_a_modality_alone_runs_its_own_engine_and_answers_as_the_whole_one(made_bundle, name):
    engine, given = runtime.load(made_bundle), tensors()
    present = np.tile([name == other for other in given], (2, 1))
    whole = engine.run({**given, "present": present})["logits"]
    engine._run = None  # the whole graph must not be run
    np.testing.assert_allclose(engine.run({name: given[name]})["logits"], whole, atol=1e-6)


def test_the_engine_of_a_subset_holds_no_node_of_the_absent_encoder(made_bundle):
    from mmedge.backends.onnxfile import read_nodes

    assert not any(node.kind == "Conv" for node in read_nodes(made_bundle / "subsets/vitals.onnx"))
    assert len(read_nodes(made_bundle / "subsets/image.onnx")) < len(read_nodes(made_bundle / "model.onnx"))


def test_predict_picks_the_engine_by_what_is_given(made_bundle, sample):
    engine = runtime.load(made_bundle)
    expected = engine.predict(image=sample["image"])
    used = []
    run = engine._run_subset
    engine._run_subset = lambda given: used.append(set(given)) or run(given)
    assert engine.predict(image=sample["image"]).probabilities == pytest.approx(expected.probabilities)
    engine.predict(**sample)
    engine.predict(image=[sample["image"]] * 2, vitals=[sample["vitals"], None])  # not the same in every row
    assert used == [{"image"}]


@pytest.mark.parametrize("first", ["image", "vitals"])
def test_a_sample_of_a_mixed_batch_is_answered_as_it_is_alone(engine, sample, first):
    """Whatever comes first: an engine of the first sample's subset knows nothing of what the others have besides."""
    other = next(name for name in sample if name != first)
    rows = [{first: sample[first]}, sample, {other: sample[other]}]
    together = engine.predict(**{name: [row.get(name) for row in rows] for name in sample})
    for answer, row in zip(together, rows, strict=True):
        assert answer.probabilities == pytest.approx(engine.predict(**row).probabilities, abs=1e-5)


def test_without_engines_of_subsets_the_whole_one_answers_with_zeros(rewritten, engine):
    bundle = rewritten(lambda meta: meta["targets"]["onnxruntime-cpu"].pop("subsets"))
    given = tensors()
    plain = runtime.load(bundle)
    np.testing.assert_allclose(
        plain.run({"vitals": given["vitals"]})["logits"], engine.run({"vitals": given["vitals"]})["logits"], atol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": np.zeros((2, 1, 8, 8))}, "image must be float32"),
        ({"image": np.zeros((2, 1, 8, 9), np.float32)}, "image must be float32"),
        ({"image": np.zeros((3, 1, 8, 8), np.float32)}, "image must be float32"),
        ({"image": np.zeros((2, 1, 8, 10**7), np.float32)[:, :, :1]}, "image must be float32"),
        ({"image": [[0.0]]}, "image must be float32"),
        ({"vitals": None}, "vitals must be .* missing"),
        ({"present": np.ones((2, 2))}, "present must be bool"),
        ({"present": [[True, True]]}, "present must be bool"),
        ({"present": np.ones((0, 2), bool)}, "batch of at least 1"),
    ],
)
def test_run_names_the_input_that_is_wrong(engine, change, said):
    with pytest.raises(MmedgeError, match=said):
        engine.run({**tensors(), "present": np.ones((2, 2), bool), **change})


@pytest.mark.parametrize("names", [("image", "vitals", "present"), ("image",)])
def test_what_was_right_once_opens_no_way_for_what_is_wrong(engine, names):
    """A feed that was checked is remembered: the next of its names and batch is compared with it alone."""
    right = {**tensors(), "present": np.ones((2, 2), bool)}
    right = {name: right[name] for name in names}
    expected = engine.run(right)["logits"]
    for wrong in (
        np.zeros((2, 1, 8, 8)),
        np.zeros((2, 1, 8, 9), np.float32),
        np.zeros((2, 64), np.float32),
        [[0.0]],
        None,
    ):
        with pytest.raises(MmedgeError, match="image must be float32"):
            engine.run({**right, "image": wrong})
        np.testing.assert_array_equal(engine.run(right)["logits"], expected)
    for wrong in ({**right, "depth": right["image"]}, [1], None):
        with pytest.raises(MmedgeError, match="no modality 'depth'|run takes"):
            engine.run(wrong)


@pytest.mark.parametrize("samples", [[], {}, [3], None])
def test_what_is_no_list_of_samples_and_no_part_is_told(engine, samples):
    with pytest.raises(UsageError, match="takes a list of samples"):
        engine.preprocess(samples)
    with pytest.raises(UsageError, match="no part 'fusio' .did you mean 'fusion'"):
        engine.parts("fusio")
    with pytest.raises(UsageError, match="no modality '3'"):
        engine.run({3: np.zeros(1)})


def test_run_refuses_nothing_an_empty_batch_and_all_without_present(engine):
    with pytest.raises(MmedgeError, match="nothing is given"):
        engine.run({})
    with pytest.raises(MmedgeError, match="batch is empty"):
        engine.run({"vitals": np.zeros((0, 3), np.float32)})
    with pytest.raises(MmedgeError, match="present must be bool"):
        engine.run(tensors())
    with pytest.raises(UsageError, match="no modality 'depth'"):
        engine.run({"depth": np.zeros((1, 3), np.float32)})


def test_predict_refuses_nan(engine, sample):
    with pytest.raises(MmedgeError, match="NaN"):
        engine.predict(vitals=[1.0, float("nan"), 2.0])


def test_many_threads_get_the_answers_of_one(engine):
    random, wrong = np.random.default_rng(5), []
    given = [random.standard_normal((1, 3)).astype(np.float32) for _ in range(8)]
    expected = [engine.run({"vitals": one})["logits"] for one in given]

    def work(number):
        for _ in range(50):
            if not np.array_equal(engine.run({"vitals": given[number]})["logits"], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_engine_of_another_version_is_told_with_the_command_that_rebuilds_it(rewritten):
    pytest.importorskip("tensorrt_rtx")
    entry = {"precision": "fp32", "engine": {"file": "engine.plan", "version": "0.9", "batch": [1, 8]}}
    bundle = rewritten(lambda meta: meta["targets"].update({"tensorrt-rtx": entry}))
    with pytest.raises(MmedgeError, match=r"built by tensorrt-rtx 0\.9") as raised:
        runtime.load(bundle, "tensorrt-rtx")
    assert f"mmedge export --rebuild {bundle}" in str(raised.value)


def test_an_engine_of_other_preprocessing_is_told(rewritten):
    pytest.importorskip("openvino")
    entry = {"precision": "fp32", "engine": {"file": "engine.xml", "version": "1", "preprocessing_sha256": "0"}}
    bundle = rewritten(lambda meta: meta["targets"].update({"openvino-cpu": entry}))
    with pytest.raises(MmedgeError, match="its preprocessing is not the bundle's"):
        runtime.load(bundle, "openvino-cpu")


def test_a_stream_encodes_a_value_once_and_answers_as_predict_does(engine, sample):
    stream, encoded = Stream(engine), []
    encoders = stream._encoders
    stream._encoders = {
        name: type(
            "Counted",
            (),
            {"run": staticmethod(lambda given, name=name: encoded.append(name) or encoders[name].run(given))},
        )
        for name in encoders
    }
    stream.update(0.0, **sample)
    for moment in (0.1, 0.2, 0.3):
        answer = stream.predict(moment)
    assert sorted(encoded) == ["image", "vitals"]
    assert answer.prediction.probabilities == pytest.approx(engine.predict(**sample).probabilities, abs=1e-6)
    assert answer.ages_s == pytest.approx({"image": 0.3, "vitals": 0.3})


def test_a_stream_takes_the_latest_value_that_is_not_after_the_moment(engine, sample):
    stream = Stream(engine)
    stream.update(1.0, vitals=[0.0, 0.0, 0.0])
    stream.update(3.0, vitals=[5.0, 5.0, 5.0])
    stream.update(2.0, vitals=[1.0, 1.0, 1.0])  # late
    for moment, value in ((1.5, 0.0), (2.5, 1.0), (3.0, 5.0)):
        assert stream.predict(moment).prediction.probabilities == pytest.approx(
            engine.predict(vitals=[value] * 3).probabilities, abs=1e-6
        )
    with pytest.raises(UsageError, match="no modality has a value"):
        stream.predict(0.5)


def test_a_stale_value_counts_as_missing_and_is_reported(engine, sample):
    stream = Stream(engine, {"vitals": 1.0})
    stream.update(0.0, **sample)
    stream.update(5.0, image=sample["image"])
    answer = stream.predict(5.0)
    assert answer.stale == ("vitals",) and answer.missing == ()
    assert answer.prediction.probabilities == pytest.approx(
        engine.predict(image=sample["image"]).probabilities, abs=1e-6
    )
    with pytest.raises(UsageError, match="no modality 'sound'"):
        stream.update(sound=1)
    with pytest.raises(UsageError, match="max_age_s"):
        Stream(engine, {"vital": 1.0})


@pytest.mark.parametrize("age", [-1, float("nan"), "1", {"image": None}])
def test_an_age_that_is_none_is_told(engine, age):
    with pytest.raises(UsageError, match="max_age_s of image is seconds"):
        Stream(engine, age)


@pytest.mark.parametrize("moment", [float("nan"), float("inf"), "now"])
def test_a_moment_that_is_none_is_told_and_spoils_no_later_answer(engine, sample, moment):
    stream = Stream(engine)
    stream.update(1.0, **sample)
    for act in (lambda: stream.update(moment, **sample), lambda: stream.predict(moment)):
        with pytest.raises(UsageError, match="a moment is a number of seconds"):
            act()
    assert stream.predict(2.0).prediction == engine.predict(**sample)


def test_a_stream_keeps_no_more_of_large_values_than_its_memory_allows(engine, sample, monkeypatch):
    monkeypatch.setattr("mmedge.runtime.stream._KEPT_BYTES", 1)
    stream = Stream(engine)
    for moment in range(5):
        stream.update(float(moment), **sample)
    assert stream.predict(3.5).ages_s == dict.fromkeys(sample, 0.5)
    with pytest.raises(UsageError):  # only the last two are there
        stream.predict(2.5)


def test_async_sources_of_different_rates_are_aligned(engine, sample):
    async def images():
        for number in range(6):
            await asyncio.sleep(0.02)
            yield number / 2, sample["image"]

    async def vitals():
        for number in range(2):
            yield number * 2.0, [float(number)] * 3
            await asyncio.sleep(0)

    async def collect():
        return [
            answer async for answer in predictions(Stream(engine, 10), {"image": images(), "vitals": vitals()}, "image")
        ]

    got = asyncio.run(collect())
    assert answers is predictions  # as version 0.1 called it
    assert [answer.at for answer in got] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert got[-1].ages_s == pytest.approx({"image": 0.0, "vitals": 0.5})
    assert got[1].ages_s["vitals"] == pytest.approx(0.5)


def test_a_graph_without_its_external_data_is_told(tmp_path):
    import onnx

    from mmedge.backends import onnxruntime_cpu
    from tests.small import write_graph

    write_graph(tmp_path / "whole.onnx")
    onnx.save(
        onnx.load(tmp_path / "whole.onnx"),
        tmp_path / "parts.onnx",
        save_as_external_data=True,
        location="weights",
        size_threshold=512,
    )
    onnxruntime_cpu.session(tmp_path / "parts.onnx")
    (tmp_path / "weights").unlink()
    with pytest.raises(MmedgeError, match="keeps its weights in another file"):
        onnxruntime_cpu.session(tmp_path / "parts.onnx")


def test_warm_up_opens_every_engine(made_bundle):
    engine = runtime.load(made_bundle)
    assert engine.warm_up() >= 60
    assert set(engine._subsets) == {frozenset({"image"}), frozenset({"vitals"})}


def test_the_manifest_of_the_bundle_lists_every_file_that_its_targets_name(made_bundle):
    entry = artifact.read(made_bundle).meta["targets"]["onnxruntime-cpu"]
    for file in [*entry["subsets"].values(), *entry["split"]["files"].values()]:
        assert (made_bundle / file).is_file()
