"""A declared dynamic length: one graph for texts of any length, with the answers of the padded ones it was trained with."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmedge import artifact, preprocess
from mmedge.backends import onnxruntime_cpu, tensorrt
from mmedge.backends.backend import Job
from mmedge.backends.engine import profiles_of
from mmedge.contract import Contract
from mmedge.errors import MismatchError, MmedgeError, UsageError
from mmedge.graph import cut
from mmedge.graph.export import export
from mmedge.measure.lengths import check_trimmed
from mmedge.models import load
from mmedge.recipe import Model
from mmedge.runtime import engine
from mmedge.runtime.fits import check_takes
from mmedge.spec import ArraySpec, TextSpec
from tests.heads import samples as made_samples

TEXTS = ["a red box on the shelf", "a red box", "the shelf", "red red red box on a shelf of the shelf"] * 4


def contract_of(**more):
    note = preprocess.fit_vocabulary(TextSpec(kind="text", length=24, vocabulary=60, **more), TEXTS)
    series = ArraySpec(kind="array", shape=(3,))
    return Contract(task="classification", modalities={"note": note, "series": series}, labels=("a", "b"))


CONTRACT = contract_of(min_length=2)
MODEL = Model.model_validate({"embedding": 8, "hidden": 8, "encoders": {"note": {"widths": [8, 8, 8]}}})


class Own(nn.Module):
    def __init__(self, masked=True, positions=False):
        super().__init__()
        self.embed, self.head = nn.Embedding(400, 6), nn.Linear(9, 2)
        self.masked, self.place = masked, nn.Parameter(torch.randn(24, 6)) if positions else None

    def forward(self, note, series):
        x = self.embed(note) if self.place is None else self.embed(note) + self.place
        keep = (note != 0).unsqueeze(2).to(x.dtype) if self.masked else torch.ones_like(x[:, :, :1])
        return self.head(torch.cat([(x * keep).sum(1) / keep.sum(1).clamp(min=1), series], 1))


def samples():
    spec = CONTRACT.modalities["note"]
    ids = np.stack([preprocess.tensor(spec, text, "note") for text in TEXTS])
    random = np.random.default_rng(0)
    given = {"note": ids, "series": random.standard_normal((len(ids), 3)).astype(np.float32)}
    present = np.ones((len(ids), 2), bool)
    present[1] = [False, True]
    names = [str(number) for number in range(len(ids))]
    return made_samples("test", names, given, present, np.zeros(len(ids), np.int64), np.arange(len(ids)))


def built(own):
    if own is None:
        torch.manual_seed(0)
        return load.build(MODEL, CONTRACT).eval()
    return load.build(Model(factory="x:y"), CONTRACT, factory=lambda: own).eval()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    module = built(None)
    load.check_forward(module, CONTRACT, "here")
    export(module, CONTRACT, path)
    return path


@pytest.fixture
def bundle(graph, tmp_path):
    with artifact.creating(tmp_path / "bundle", stage="bundle", key="k", parent=None) as (folder, meta):
        (folder / "model.onnx").write_bytes(graph.read_bytes())
        cut.subset_graph(graph, CONTRACT, ["note"], folder / "note.onnx")
        entry = {"precision": "fp32", "subsets": {"note": "note.onnx"}}
        meta |= {"name": "texts", "contract": CONTRACT.model_dump(mode="json", by_alias=True)}
        meta |= {"targets": {"onnxruntime-cpu": entry}, "figures": {}}
    return engine.load(tmp_path / "bundle")


def test_a_graph_takes_texts_of_any_length_and_answers_as_for_padded_ones(graph):
    run, x = onnxruntime_cpu.session(graph), samples()
    assert run.inputs["note"].shape == (None, None)
    check_trimmed(run, CONTRACT, x, 1e-5, graph)
    note = x.inputs["note"][:1, :6]
    assert run({"note": note, "series": x.inputs["series"][:1], "present": x.present[:1]})["logits"].shape == (1, 2)


def test_predict_pads_to_the_longest_text_of_the_batch_only(bundle):
    short = bundle.preprocess([{"note": "the shelf"}])["note"]
    both = bundle.preprocess([{"note": "the shelf"}, {"note": TEXTS[0]}, {"series": np.zeros(3, np.float32)}])["note"]
    assert 2 <= short.shape[1] < both.shape[1] < 24
    answers = bundle.predict(note=["the shelf", TEXTS[0]], series=[np.zeros(3, np.float32)] * 2)
    alone = bundle.predict(note="the shelf", series=np.zeros(3, np.float32))
    np.testing.assert_allclose(
        list(answers[0].probabilities.values()), list(alone.probabilities.values()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("others", [{}, {"series": np.zeros((1, 3), np.float32), "present": np.ones((1, 2), bool)}])
def test_run_takes_what_the_length_allows_and_names_what_it_does_not(bundle, others):
    padded = preprocess.tensor(CONTRACT.modalities["note"], "the shelf", "note")[None]
    used = int((padded != 0).sum())
    answers = [bundle.run({"note": padded[:, :length], **others})["logits"] for length in (24, used)]
    np.testing.assert_allclose(*answers, atol=1e-6)
    for wrong in (padded[:, :1], np.zeros((1, 25), np.int64)):
        with pytest.raises(MmedgeError, match=r"note must be int64 \[1, 2 to 24\]"):
            bundle.run({"note": wrong, **others})


def test_a_network_that_looks_at_padding_or_has_one_length_is_told_of_before_it_is_trained():
    with pytest.raises(UsageError, match="changes by .* with the padding"):
        load.check_forward(built(Own(masked=False)), CONTRACT, "here")
    load.check_forward(built(Own()), CONTRACT, "here")
    with pytest.raises(UsageError, match="fails on a note of 2 tokens, its min_length"):
        load.check_forward(built(Own(positions=True)), CONTRACT, "here")


def test_a_graph_that_looks_at_padding_is_a_mismatch_that_names_the_text(tmp_path):
    export(built(Own(masked=False)), CONTRACT, tmp_path / "model.onnx")
    with pytest.raises(MismatchError, match="tokens is another by") as raised:
        check_trimmed(onnxruntime_cpu.session(tmp_path / "model.onnx"), CONTRACT, samples(), 1e-4, tmp_path)
    assert raised.value.exit_code == 5


def test_the_least_the_middle_and_the_whole_length_are_compared_whatever_the_texts_are(graph):
    run, lengths = onnxruntime_cpu.session(graph), set()

    def seen(inputs):
        lengths.add(inputs["note"].shape[1])
        return run(inputs)

    check_trimmed(seen, CONTRACT, samples(), 1e-4, graph)
    assert {2, 13, 24} <= lengths


@pytest.mark.parametrize(
    "values",
    [{"kind": "sensor", "channels": 2, "length": 9}, {"kind": "audio"}, {"kind": "array", "shape": [3]}],
)
def test_a_sound_or_a_series_has_no_dynamic_length_and_is_told_why(values):
    with pytest.raises(ValueError, match="'min_length' is a text's.* data to it"):
        Contract.model_validate(
            {"task": "regression", "modalities": {"x": {**values, "min_length": 2}}},
        )


def test_a_graph_of_a_fixed_length_is_not_taken_for_one_of_any(graph, tmp_path):
    assert contract_of().modalities["note"].shortest is None
    model = onnx.load(graph)
    next(given for given in model.graph.input if given.name == "note").type.tensor_type.shape.dim[1].dim_value = 24
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(MmedgeError, match="input note has the fixed length 24"):
        check_takes(onnxruntime_cpu.session(tmp_path / "fixed.onnx"), CONTRACT, tmp_path)


def test_tensorrt_rtx_gets_a_profile_of_every_length(graph, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    shutil.copy(graph, tmp_path / "m.onnx")
    job = Job(tmp_path / "m.onnx", "engine", profiles_of(CONTRACT, (1, 1, 4)), tensorrt.Options())
    assert tensorrt.build("tensorrt-rtx", job).record()["profiles"]["note"] == [[1, 2], [1, 24], [4, 24]]


def test_a_least_length_that_is_none_is_a_fault_of_the_recipe():
    with pytest.raises(ValueError, match="must be below 'length'"):
        TextSpec(kind="text", length=8, min_length=8)
