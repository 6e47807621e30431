"""Batches of any number of processes are those of one; what was waited for is told; a worker that dies is an error."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.data.store.rows import Reading
from mmedge.errors import MmedgeError
from mmedge.recipe import Augment, Train
from mmedge.spec import ArraySpec
from mmedge.training.loop import feeding
from mmedge.training.loop.batches import Maker, Training, batches
from mmedge.training.loop.feeding import Feed
from tests.heads import CLASSES
from tests.heads import samples as made_samples

CONTRACT = Contract(modalities={"series": ArraySpec(kind="array", shape=(3, 40))}, heads={"logits": CLASSES})
CPU = torch.device("cpu")


def training(workers, **schedule):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(64, 3, 40)).astype(np.float32)
    samples = made_samples("train", tuple(map(str, range(64))), {"series": series}, np.ones((64, 1), bool), np.arange(64) % 3, np.arange(64))  # fmt: skip
    augment = {"series": Augment(shift=3, noise=0.1)}
    train = Train(batch_size=16, epochs=2, views=2, augment=augment, class_weights="balanced", **schedule)
    return Training(CONTRACT, samples, samples, train, np.arange(64), 0, 5, reading=Reading(batch_workers=workers))


# Slow, though they take seconds: a process that has run ONNX Runtime, OpenVINO and torch's exporter now and then died
# when it was forked; these are in one that has not.
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_batches_are_the_same_for_any_number_of_processes(workers, accumulate):
    feed = Feed(training(workers, accumulate=accumulate), CPU)
    for epoch in range(2):
        expected = list(batches(training(0, accumulate=accumulate), epoch))
        found = list(feed.batches(epoch))
        assert len(found) == len(expected) == 4 * accumulate and 0 < feed.share(100.0) < 0.5
        for one, other in zip(found, expected):
            np.testing.assert_array_equal(one.index, other.index)
            assert (one.view, one.passed, one.share) == (other.view, other.passed, other.share)
            for name in ("inputs", "targets", "weights"):
                for key, value in getattr(one, name).items():
                    assert torch.equal(value, getattr(other, name)[key])
            assert torch.equal(one.present, other.present)


@pytest.mark.slow
def test_an_epoch_that_is_left_early_leaves_no_process():
    drawn = Feed(training(2), CPU).batches(0)
    next(drawn)
    assert len(torch.multiprocessing.active_children()) == 2
    drawn.close()
    assert not torch.multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do(monkeypatch):
    def dies(self, plan):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Maker, "__getitem__", dies)
    with pytest.raises(
        MmedgeError, match=r"process that makes batches died.*\n.*batch_workers: 1\n.*fewer workers"
    ) as kept:
        next(Feed(training(1), CPU).batches(0))
    # Its death is told once, and not at the next end of any process, wherever this one is then.
    for _ in range(3):
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert kept.value.__context__ is None


def test_none_prepares_batches_on_a_cpu_unless_asked_and_advice_is_for_long_waits(monkeypatch):
    assert Feed(training(None), CPU).workers == 0
    monkeypatch.setattr(feeding, "cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    feed = Feed(training(2), CPU)
    feed._waited = 9.0
    assert feed.share(10.0) == 0.9 and feed.advice() == []  # a few seconds are not worth a word
    feed._waited = 2.0
    assert feed.share(10.0) == 0.2
    (advice,) = feed.advice()
    assert "data 55% of the time, with 2 processes" in advice and "set data.batch_workers: 4" in advice
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)  # no core is left to help
    assert feed.advice() == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert feed.share(990.0) == 0 and feed.advice() == []
