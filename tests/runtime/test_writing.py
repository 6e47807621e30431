"""Texts for what an app may give and never should: silence, a blank text, one pixel, half of the modalities, no end."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmedge import artifact, preprocess
from mmedge.backends.session import Session, TensorInfo
from mmedge.bundle import Bundle, Entry
from mmedge.contract import Contract
from mmedge.errors import MmedgeError, UsageError
from mmedge.measure.quality import module_run
from mmedge.models import load
from mmedge.recipe import Model, TextDecoder
from mmedge.runtime.engine import Engine
from mmedge.spec import AudioSpec, ImageSpec, TextSpec
from mmedge.tasks import Target, generation
from mmedge.tasks.head import Texts

TEXTS = ["a red bus", "a smiling cat", "woman running", "zebra"] * 3
LENGTH = 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A bundle of a network that has learnt nothing, least of all to end."""
    words = preprocess.fit_vocabulary(TextSpec(kind="text", length=6, vocabulary=300), TEXTS)
    modalities = {
        "picture": ImageSpec(kind="image", height=8, width=8, channels=1, mean=(0.5,), std=(0.25,)),
        "sound": AudioSpec(kind="audio", sample_rate=8000, mels=8, frames=8, mean=(0.0,), std=(1.0,)),
        "words": words,
    }
    head = generation.head(TEXTS, Target(task="generation", text=Texts(length=LENGTH)))
    contract = Contract(modalities=modalities, heads={"text": head})
    torch.manual_seed(0)
    module = load.build(Model(text_decoder=TextDecoder(width=16), embedding=8, hidden=8), contract).eval()
    with torch.no_grad():
        next(iter(module.head_modules().values())).decoder.out.bias[head.decoding.end] = -100
    path = tmp_path_factory.mktemp("writing") / "bundle"
    with artifact.creating(path, stage="bundle", key="k", parent=None):
        pass
    takes = {name: TensorInfo(np.dtype(spec.dtype), (None, *spec.shape)) for name, spec in modalities.items()}
    takes["present"] = TensorInfo(np.dtype(bool), (None, len(modalities)))
    # The loop in torch, which the exported one equals token by token: tests/pipeline/test_generation.py.
    session = Session(module_run(module), takes, module)
    return Engine(contract, lambda name: session, "onnxruntime-cpu", Entry(), Bundle(artifact.read(path)))


def one_pixel():
    stream = io.BytesIO()
    Image.new("L", (1, 1), 255).save(stream, "png")
    return stream.getvalue()


SILENCE = np.zeros(2000, np.float32)


@pytest.mark.parametrize(
    "given",
    [
        {"sound": SILENCE},
        {"words": "\u2603 \U0001f6b2 unheard-of"},
        {"picture": one_pixel()},
        {"picture": one_pixel(), "sound": SILENCE, "words": "?"},
        {"picture": one_pixel(), "sound": None, "words": None},
    ],
)
def test_what_says_nothing_or_is_missing_gets_a_text_that_stops_at_the_limit(engine, given):
    found = engine.predict(**given)
    assert np.isfinite(found.score) and found.score < 0 and not found.ended
    pair = engine.predict(**{name: [value] * 2 for name, value in given.items() if value is not None})
    assert [one.text for one in pair] == [found.text] * 2
    raw = engine.run(engine.preprocess([{name: x for name, x in given.items() if x is not None}]))["text"]
    assert raw.shape == (1, 2 + LENGTH) and (raw[0, 1:] > 0).all()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, UsageError, "nothing is present"),
        ({"picture": None}, UsageError, "nothing is present"),
        ({"film": "a.mp4"}, UsageError, "no modality 'film'"),
        ({"words": ""}, MmedgeError, "words has no token"),
        ({"picture": one_pixel(), "words": "  "}, MmedgeError, "words has no token"),
        ({"sound": np.zeros(0, np.float32)}, MmedgeError, "sound"),
        ({"sound": np.full(2000, np.nan, np.float32)}, MmedgeError, "NaN"),
        ({"picture": np.zeros((0, 0), np.uint8)}, MmedgeError, "picture"),
    ],
)
def test_what_no_text_can_be_written_of_is_told(engine, given, error, words):
    with pytest.raises(error, match=words):
        engine.predict(**given)
