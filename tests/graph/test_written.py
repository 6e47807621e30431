"""A network that writes texts, exported: its loop gives the tokens that torch's does, for each decoder."""

import numpy as np
import onnx
import pytest
import torch

from mmedge.backends import onnxruntime_cpu, opened, writing
from mmedge.errors import MmedgeError
from mmedge.graph.export import export
from mmedge.measure.quality import module_run
from mmedge.models import load
from mmedge.models.decoders import DECODERS
from mmedge.recipe import Model, TextDecoder
from mmedge.tasks import Head
from tests.models.test_decoders import contract, inputs, network


@pytest.mark.long
@pytest.mark.parametrize("kind", DECODERS)
def test_the_exported_loop_writes_torchs_tokens_exactly_at_any_batch_and_on_each_backend(kind, tmp_path):
    module, file = network(kind), tmp_path / "model.onnx"
    export(module, contract(), file)
    assert {"text.token", "text.state.memory"} <= {value.name for value in onnx.load(file).graph.input}
    beginning, step = (onnxruntime_cpu.session(part) for part in writing.graphs_of(file, writing.described(file)))
    assert set(beginning.inputs) == {"near", "far", "present"} and not set(beginning.inputs) & set(step.inputs)
    for rows in (1, 2, 9):
        given = {name: x.numpy() for name, x in inputs(rows).items()}
        given["present"][::2, 1] = False
        wanted = module_run(module)(given)["text"]
        for backend in ("onnxruntime-cpu", "openvino-cpu"):
            got = opened(file, backend)(given)["text"]
            assert (got[:, 1:] == wanted[:, 1:]).all()
            np.testing.assert_allclose(got[:, 0], wanted[:, 0], rtol=1e-5)


@pytest.mark.long
def test_another_head_stands_beside_the_text(tmp_path):
    heads = {"kind": Head(task="classification", labels=("a", "b", "c")), **contract().heads}
    both = contract().model_copy(update={"heads": heads})
    module, given = load.build(Model(text_decoder=TextDecoder(width=16)), both).eval(), inputs(3)
    export(module, both, tmp_path / "model.onnx")
    found = opened(tmp_path / "model.onnx")({name: x.numpy() for name, x in given.items()})
    with torch.no_grad():
        for name, wanted in module(**given).items():
            np.testing.assert_allclose(found[name], wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_a_network_that_has_no_parts_is_told_so(tmp_path):
    with pytest.raises(MmedgeError, match="exported in two parts"):
        export(torch.nn.Linear(1, 1), contract(), tmp_path / "model.onnx")
