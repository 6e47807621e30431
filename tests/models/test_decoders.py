"""What writes texts: a step gives what the whole does, the state says all that was written, and the loop ends."""

import pytest
import torch

from mmedge.contract import Contract
from mmedge.models import load
from mmedge.models.decoders import DECODERS
from mmedge.recipe import Model, TextDecoder
from mmedge.spec import TabularSpec
from mmedge.tasks import Target, generation
from mmedge.tasks.head import Texts

SIZE = TextDecoder(width=16, depth=2, heads=2)
TARGET = Target(task="generation", text=Texts(length=7))
TEXTS = ["a red bus", "a smiling cat", "woman running", "zebra"] * 3


def contract():
    modalities = {
        "near": TabularSpec(kind="tabular", columns=("x", "y")),
        "far": TabularSpec(kind="tabular", columns=("z",)),
    }
    return Contract(modalities=modalities, heads={"text": generation.head(TEXTS, TARGET)})


def network(kind):
    torch.manual_seed(0)
    return load.build(Model(text_decoder=SIZE.model_copy(update={"kind": kind})), contract()).eval()


def inputs(rows):
    torch.manual_seed(1)
    return {"near": torch.randn(rows, 2), "far": torch.randn(rows, 1), "present": torch.ones(rows, 2, dtype=torch.bool)}


@pytest.mark.parametrize("kind", DECODERS)
def test_steps_one_by_one_give_what_all_tokens_at_once_do(kind):
    decoder = DECODERS[kind](12, 20, 6, SIZE, 0.1).eval()
    memory, tokens = torch.randn(3, 12), torch.randint(1, 20, (3, 6))
    whole, state = decoder.forced(memory, tokens), decoder.start(memory)
    for at in range(6):
        logits, changed = decoder.step(tokens[:, at], state)
        torch.testing.assert_close(logits, whole[:, at], rtol=1e-4, atol=1e-5)
        assert set(changed) < set(state)  # the memory is none of what changes
        state = {**state, **changed}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_text_is_that_of_its_sample_whatever_is_in_the_batch_and_its_score_is_that_of_its_tokens(kind):
    module, given = network(kind), inputs(5)
    whole = module(**given)["text"]
    for row in range(5):
        alone = module(**{name: x[row : row + 1] for name, x in given.items()})["text"]
        assert alone[0, 1:].tolist() == whole[row, 1:].tolist()
    tokens = whole[:, 1:].long()
    likely = torch.log_softmax(module(**given, text=tokens)["text"], dim=2).gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close((likely * (tokens > 0)).sum(dim=1), whole[:, 0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_that_never_ends_is_stopped_at_the_limit_and_one_that_ends_at_once_writes_nothing(kind):
    module = network(kind)
    (head,) = module.head_modules().values()
    for favour, written in ((-100.0, 8), (100.0, 1)):
        with torch.no_grad():
            head.decoder.out.bias[head.end] = favour
        output = module(**inputs(2))["text"]
        assert ((output[:, 1:] > 0).sum(dim=1) == written).all()
        assert generation.ended(output[:, 1:].numpy(), contract().heads["text"]).all() == (written == 1)


def test_a_sample_that_is_shown_in_several_ways_learns_its_text_in_each():
    module, given = network("gru"), inputs(3)
    texts = torch.from_numpy(generation.targets(TEXTS[:3], contract().heads["text"], TARGET))
    several = given | {"present": given["present"][:, None].repeat(1, 2, 1)}
    whole = module(**given, text=texts)["text"]
    torch.testing.assert_close(module(**several, text=texts)["text"][::2], whole)
