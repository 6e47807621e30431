"""Students of their teacher's layers: which blocks are kept, and whose weights they have."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mmedge.contract import Contract
from mmedge.errors import UsageError
from mmedge.models import load
from mmedge.models.blocks import list_of, take_over
from mmedge.recipe import Model
from tests.conftest import parsed
from tests.models.test_built_in import MODALITIES

PAIR = {name: MODALITIES[name] for name in ("text", "tabular")}
CONTRACT = Contract.model_validate({"task": "classification", "labels": ["a", "b"], "modalities": PAIR})
LARGE = {"text": {"kind": "transformer", "widths": [8], "depth": 4}, "tabular": {"widths": [4]}}


def network(seed, **more):
    torch.manual_seed(seed)
    return load.build(Model.model_validate({"encoders": LARGE, "embedding": 8, "hidden": 8, **more}), CONTRACT).eval()


def test_a_student_of_some_blocks_is_its_teacher_without_the_others():
    teacher, student = network(0), network(1, layers={"text": [0, 3]})
    take_over(student, teacher, {"text": [0, 3]})
    blocks = teacher.encoders.text.tokens.blocks
    assert len(student.encoders.text.tokens.blocks) == 2
    inputs = {"text": torch.randint(1, 40, (3, 12)), "tabular": torch.randn(3, 3), "present": torch.ones(3, 2) > 0}
    whole = teacher(**inputs)["logits"]
    for passed in (1, 2):
        blocks[passed].forward = lambda x, hidden=None: x
    cut = teacher(**inputs)["logits"]
    torch.testing.assert_close(student(**inputs)["logits"], cut)
    assert not torch.allclose(cut, whole)


def test_a_list_of_blocks_is_found_in_a_modality_or_by_its_name():
    module = network(0)
    assert list_of(module, "text") == list_of(module, "encoders.text.tokens.blocks") == "encoders.text.tokens.blocks"


def test_convolutions_inside_a_block_are_no_blocks():
    """Of two behind each other only the first has an activation: without the second, a sum in place has lost its gradient."""
    import transformers

    def resnet(*depths):
        of = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=depths, layer_type="basic")
        return nn.ModuleDict({"encoders": nn.ModuleDict({"picture": transformers.ResNetModel(of)})})

    assert list_of(resnet(2, 2), "picture") == "encoders.picture.encoder.stages.0.layers"
    with pytest.raises(UsageError, match="no list of blocks that are alike"):
        list_of(resnet(1, 1), "picture")


def test_blocks_whose_dropout_grows_are_alike():
    blocks = [
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Identity()),
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout()),
    ]
    assert list_of(nn.ModuleDict({"it": nn.ModuleList(blocks)}), "it") == "it"


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ({"text": [4]}, "4 blocks, 0 to 3, and no block 4"),
        ({"tabular": [0]}, "no list of blocks that are alike"),
        ({"txet": [0]}, "no encoder or layer 'txet'"),
    ],
)
def test_blocks_that_are_not_there_are_told(layers, told):
    with pytest.raises(UsageError, match=told):
        network(0, layers=layers)


def test_weights_of_another_form_are_told():
    with pytest.raises(UsageError, match="no weights of the form of"):
        take_over(network(0, layers={"text": [1]}), network(0, hidden=6), {"text": [1]})


def test_the_recipe_makes_the_student_of_the_teachers_section(values):
    values["teacher"]["model"] |= {"ensemble": 2}
    distill = values["distill"]
    values["distill"] = {**distill, "from_teacher": {"image": [1]}}
    with pytest.raises((ValidationError, UsageError), match=r"leave out distill.model"):
        parsed(values)
    for given, told in ((None, r"distill.model: "), ({"layers": {"image": [0]}}, "leave out distill.model")):
        values["distill"]["model"] = given
        with pytest.raises((ValidationError, UsageError), match=told):
            parsed(values)
    del values["distill"]["model"]
    found = parsed(values)
    assert found.distill.model == found.teacher.model.model_copy(update={"layers": {"image": (1,)}, "ensemble": 1})
    assert type(found).model_validate(found.model_dump(mode="json", by_alias=True)).distill == found.distill
