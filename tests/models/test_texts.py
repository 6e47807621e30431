"""Texts: the network that ``init`` proposes is no worse than a bag of words, on real sentences of other people's."""

import importlib
import inspect

import numpy as np
import pytest
import torch

from mmedge import preprocess
from mmedge.contract import Contract
from mmedge.data.store.samples import Samples
from mmedge.measure.quality import predict_module
from mmedge.models.load import build
from mmedge.progress import Silent
from mmedge.recipe import Encoder, Model, Train
from mmedge.spec import TextSpec
from mmedge.training.loop.batches import Training
from mmedge.training.loop.fit import fit
from mmedge.training.objectives import Supervised

SOURCES = {"numpy": ("numpy", "numpy.ma", "numpy.linalg"), "scipy": ("scipy.special", "scipy.stats", "scipy.signal")}


def sentences():
    """(the first sentences of functions' documentation, 0 or 1 for whose they are)."""
    found = {}
    for label, modules in enumerate(SOURCES.values()):
        for name in modules:
            for value in vars(importlib.import_module(name)).values():
                lines = (inspect.getdoc(value) or "").split("\n\n") if callable(value) else []
                # The first may be a signature.
                text = next((" ".join(x.split()) for x in lines if len(x.split()) > 3 and "(" not in x), None)
                if text:
                    found[text] = label
    texts = np.array(sorted(found))
    return np.random.default_rng(0).permutation(texts), found


@pytest.mark.slow
def test_a_student_of_texts_reaches_a_linear_model_of_their_words(tmp_path):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, of = sentences()
    labels = np.array([of[text] for text in texts])
    parts = np.split(np.arange(len(texts)), [len(texts) // 2, 5 * len(texts) // 8])
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", length=32, vocabulary=4000), texts[parts[0]])
    contract = Contract.model_validate(
        {"task": "classification", "modalities": {"note": spec.model_dump(by_alias=True)}, "labels": list(SOURCES)}
    )

    def samples(split, rows):
        ids = np.stack([preprocess.tensor(spec, str(text), "note") for text in texts[rows]])
        names = tuple(map(str, rows))
        return Samples(
            split, names, {"note": ids}, np.ones((len(rows), 1), bool), {"logits": labels[rows]}, rows, contract.heads
        )

    train, validation, test = (samples(s, rows) for s, rows in zip(("train", "validation", "test"), parts))
    schedule = Train(epochs=20, batch_size=32, learning_rate=2e-3)
    ours = []
    for seed in range(3):
        torch.manual_seed(seed)
        module = build(Model(encoders={"note": Encoder(widths=(24, 24))}, embedding=32, hidden=32), contract)
        training = Training(contract, train, validation, schedule, np.arange(len(train)), seed, seed)
        state = tmp_path / f"{seed}.safetensors"
        fit(module, Supervised(contract, schedule), training, state=state, task="t", progress=Silent())
        ours.append(
            (predict_module(module, contract, test, test.present)["logits"].argmax(1) == test.targets["logits"]).mean()
        )
    counted = CountVectorizer().fit(texts[parts[0]])
    words = [counted.transform(texts[rows]) for rows in (parts[0], parts[2])]
    linear = LogisticRegression(max_iter=1000).fit(words[0], labels[parts[0]]).score(words[1], labels[parts[2]])
    print(len(texts), labels.mean(), ours, linear)
    # Three seeds' mean, within one standard error of the test samples.
    assert np.mean(ours) > linear - (linear * (1 - linear) / len(test)) ** 0.5
