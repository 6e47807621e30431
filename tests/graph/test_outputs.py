"""Networks with several outputs: all are in the graph under their names, verified, cut and answered; one is the answer."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mmedge import artifact, runtime
from mmedge.backends import onnxruntime_cpu
from mmedge.errors import MismatchError, UsageError
from mmedge.graph import cut
from mmedge.graph.adopt import adopt
from mmedge.graph.export import export
from mmedge.models import load
from mmedge.recipe import Model, Prune
from mmedge.stages import trained
from mmedge.stages.export import verify
from mmedge.stages.prune.groups import groups_of
from tests.heads import samples as made_samples
from tests.small import CONTRACT


class Several(nn.Module):
    """``give``: what forward makes of its logits, its joint features and its image features."""

    def __init__(self, give=None):
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU())
        self.feel = nn.Linear(3, 8)
        self.join, self.head, self.box = nn.Linear(16, 6), nn.Linear(6, 3), nn.Linear(6, 8)
        self.give = give

    def forward(self, image, vitals):
        seen = self.look(image)
        joint = self.join(torch.cat([seen, self.feel(vitals)], 1)).relu()
        logits = self.head(joint)
        if self.give is not None:
            return self.give(logits, joint)
        boxes = self.box(joint).reshape(-1, 2, 4)
        return {"boxes": boxes, "logits": logits, "top": logits.argmax(1), "seen": seen, "loss": logits.mean(), "n": 7}


class Named(NamedTuple):
    scores: Tensor
    joint: Tensor


@dataclass
class Record:
    scores: Tensor
    joint: Tensor
    hidden: None = None


def built(give=None, **model):
    torch.manual_seed(0)
    return load.build(Model(factory="x:y", **model), CONTRACT, factory=lambda: Several(give)).eval()


def samples(n=7):
    random = np.random.default_rng(0)
    inputs = {
        name: random.standard_normal((n, *spec.shape)).astype(np.float32) for name, spec in CONTRACT.modalities.items()
    }
    present = np.ones((n, 2), bool)
    present[1] = [False, True]
    return made_samples("test", tuple(map(str, range(n))), inputs, present, np.zeros(n, np.int64), np.arange(n))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("several") / "model.onnx"
    export(built(), CONTRACT, path)
    return path


ALL = ["logits", "boxes", "top", "seen"]


def test_all_tensors_with_a_row_a_sample_are_in_the_graph_and_verified_the_answer_first(graph):
    assert [value.name for value in onnx.load(graph).graph.output] == ALL
    found = trained.verify(built(), graph, CONTRACT, samples())
    assert [(one.subset, one.output) for one in found] == [
        (subset, name) for subset in ("image", "vitals", "image+vitals") for name in ALL
    ]


@pytest.mark.parametrize(("layer", "said"), [("box", "'boxes'"), ("look.0", "'logits'")])
def test_an_output_that_differs_is_named_with_the_first_node(graph, tmp_path, layer, said):
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(f"{layer}.weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    kind = {"box": "Gemm", "look.0": "Conv"}[layer]
    with pytest.raises(MismatchError, match=rf"in {said} with image: .*first node that differs: \S+ \({kind}\)"):
        verify(graph, tmp_path / "wrong.onnx", CONTRACT, samples(), "fp32")


def test_engines_of_subsets_have_them_all_and_the_head_those_that_need_more_than_one_modality(graph, tmp_path):
    x, whole = samples().inputs, onnxruntime_cpu.session(graph)
    cut.subset_graph(graph, CONTRACT, ["vitals"], tmp_path / "vitals.onnx")
    alone = onnxruntime_cpu.session(tmp_path / "vitals.onnx")({"vitals": x["vitals"]})
    present = np.tile([False, True], (7, 1))
    expected = whole({**x, "present": present})
    for name in ALL:
        np.testing.assert_allclose(alone[name], expected[name], atol=1e-5)
    own = cut.split_graph(graph, CONTRACT, tmp_path / "parts")
    given = {"present": np.ones((7, 2), bool)}
    for name in own:
        given |= onnxruntime_cpu.session(tmp_path / "parts" / f"{name}.onnx")({name: x[name]})
    head, expected = (
        onnxruntime_cpu.session(tmp_path / "parts/fusion.onnx")(given),
        whole({**x, "present": given["present"]}),
    )
    assert {"logits", "boxes", "top"} <= head.keys()
    for name in head:
        np.testing.assert_allclose(head[name], expected[name], atol=1e-5)


def test_a_bundle_answers_with_all_of_them_and_predicts_by_the_answer(graph, tmp_path):
    with artifact.creating(tmp_path / "bundle", stage="bundle", key="k", parent=None) as (folder, meta):
        (folder / "model.onnx").write_bytes(graph.read_bytes())
        meta |= {"name": "several", "contract": CONTRACT.model_dump(mode="json", by_alias=True)}
        meta |= {"targets": {"onnxruntime-cpu": {"precision": "fp32"}}, "figures": {}}
    engine, x = runtime.load(tmp_path / "bundle"), samples(3).inputs
    given = engine.run({**x, "present": np.ones((3, 2), bool)})
    assert {name: value.shape for name, value in given.items()} == {
        "logits": (3, 3), "boxes": (3, 2, 4), "top": (3,), "seen": (3, 8)
    }  # fmt: skip
    said = engine.predict(vitals=[1.0, 2.0, 3.0])
    assert set(said.probabilities) == {"no", "maybe", "yes"}


@pytest.mark.parametrize(
    ("give", "outputs", "names"),
    [
        (lambda logits, joint: logits, (), ["logits"]),
        (lambda logits, joint: {"scores": logits}, (), ["logits"]),
        (lambda logits, joint: (logits, joint), ("output_0", "output_1"), ["logits", "output_1"]),
        (lambda logits, joint: (joint, logits), ("output_1",), ["logits"]),
        (lambda logits, joint: Named(logits, joint), ("scores", "joint"), ["logits", "joint"]),
        (lambda logits, joint: Record(logits, joint), ("scores", "joint"), ["logits", "joint"]),
    ],
)
def test_a_tensor_a_dict_a_tuple_and_a_dataclass_are_taken(give, outputs, names):
    module = built(give, outputs=outputs)
    load.check_forward(module, CONTRACT, "here")
    from mmedge.graph.trace import example

    given = module(**example(CONTRACT))
    assert list(given) == names and given["logits"].shape == (2, 3)


@pytest.mark.parametrize(
    ("give", "outputs", "said"),
    [
        (None, ("logits", "boxs"), "gives no tensor 'boxs'.*did you mean 'boxes'"),
        (None, ("logits", "loss"), "'loss' cannot be in a graph: it has no row a sample"),
        (None, ("top", "logits"), "the head 'logits' is called so in graphs, and another"),
        (lambda logits, joint: {"logits": logits, "image": joint}, ("logits", "image"), "an input has the same name"),
    ],
)
def test_a_wrong_name_among_the_outputs_is_told(give, outputs, said):
    with pytest.raises(UsageError, match=said) as raised:
        load.check_forward(built(give, outputs=outputs), CONTRACT, "here")
    assert 2 <= len(str(raised.value).splitlines()) <= 3


def test_pruning_leaves_an_output_its_shape():
    module = built()
    groups, left = groups_of(module, CONTRACT, Prune(round_to=1))
    roots = {group.root for group in groups}
    assert "inner.look.0" in roots and "inner.feel" not in left
    assert "'seen' would be of another shape" in left["inner.look.3"]


def test_a_teacher_of_another_origin_may_have_several_outputs_of_which_one_is_named(tmp_path):
    module = Several(lambda logits, joint: (joint, logits)).eval()
    given = tuple(torch.from_numpy(x) for x in samples(2).inputs.values())
    source = tmp_path / "theirs.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        module,
        given,
        source,
        dynamo=True,
        verbose=False,
        input_names=["image", "vitals"],
        output_names=["logits", "scores"],  # the features have the name that the answer gets
        dynamic_shapes=({0: batch}, {0: batch}),
    )
    means = {name: np.zeros(spec.shape, np.float32) for name, spec in CONTRACT.modalities.items()}
    adopt(source, CONTRACT, {}, means, tmp_path / "a.onnx", outputs=("scores",))
    x = samples(3).inputs
    expected = module(*(torch.from_numpy(each) for each in x.values()))[1].detach().numpy()
    answered = onnxruntime_cpu.session(tmp_path / "a.onnx")({**x, "present": np.ones((3, 2), bool)})
    np.testing.assert_allclose(answered["logits"], expected, atol=1e-5)
    with pytest.raises(UsageError, match="no output 'score'.*did you mean 'scores'"):
        adopt(source, CONTRACT, {}, means, tmp_path / "b.onnx", outputs=("score",))
