"""Batches of any number of processes are those of one; what was waited for is told; a worker that dies is an error."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from mmedge.contract import Contract
from mmedge.data.store.rows import Reading, Rows, Shards
from mmedge.errors import MmedgeError
from mmedge.recipe import Augment, Mix, Train
from mmedge.spec import ArraySpec, ImageSpec
from mmedge.training.loop import feeding
from mmedge.training.loop.batches import Training, batches
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


def same(one, other):
    np.testing.assert_array_equal(one.index, other.index)
    assert (one.view, one.passed, one.share) == (other.view, other.passed, other.share)
    for name in ("inputs", "targets", "weights"):
        for key, value in getattr(one, name).items():
            assert torch.equal(value, getattr(other, name)[key])
    assert torch.equal(one.present, other.present)


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_batches_are_the_same_for_any_number_of_processes(workers):
    expected = training(0, accumulate=2)
    with closing(Feed(training(workers, accumulate=2), CPU)) as feed:
        for epoch in range(2):
            # Held together: what one batch lies in is not another's.
            found, wanted = list(feed.batches(epoch)), list(batches(expected, epoch))
            assert len(found) == len(wanted) == 8 and 0 < feed.share(100.0) < 0.5
            for one, other in zip(found, wanted):
                same(one, other)
        process = feed._pool._workers[0][0]
        drawn = feed.batches(0)
        same(next(drawn), next(batches(expected, 0)))
        assert process.poll() is None  # the same one for all epochs
        drawn.close()
        assert process.poll() is not None  # an epoch that is left early leaves none


@pytest.mark.slow
@pytest.mark.parametrize("mix", [None, Mix(kind="cutmix", alpha=1.0)])
def test_pictures_of_the_store_come_as_in_one_process(tmp_path, mix):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 24, 32)).astype(np.uint8)
    spec = ImageSpec(kind="image", height=24, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    shards = Shards(tmp_path / "train", "uint8", 64, spec.shape)
    np.save(shards.files[0][0], pixels)
    contract = Contract(modalities={"image": spec}, heads={"logits": CLASSES})
    train = Train(batch_size=16, epochs=2, views=2, augment={"image": Augment.model_validate("strong")}, mix=mix)
    found = []
    for workers in (0, 2):
        rows = Rows(spec, shards, np.arange(64) != 3)
        part = made_samples("train", tuple(map(str, range(64))), {"image": rows}, np.ones((64, 1), bool), np.arange(64) % 3, np.arange(64))  # fmt: skip
        reading = Reading(batch_workers=workers)
        with closing(Feed(Training(contract, part, part, train, np.arange(64), 0, 5, reading=reading), CPU)) as feed:
            found.append([batch for epoch in range(2) for batch in feed.batches(epoch)])
            assert not workers or (feed._pool._slot == 16 * 3 * 24 * 32 * (4 if mix else 1))  # bytes stay bytes
    for one, other in zip(*found):
        same(one, other)


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do():
    with closing(Feed(training(1), CPU)) as feed:
        drawn = feed.batches(0)
        next(drawn)
        os.kill(feed._pool._workers[0][0].pid, signal.SIGKILL)
        with pytest.raises(
            MmedgeError,
            match=r"process that makes batches died: it was killed by SIGKILL\n.*batch_workers: 1\n.*fewer workers",
        ):
            list(drawn)


@pytest.mark.slow
def test_ctrl_c_is_the_training_processes_alone_and_no_worker_outlives_a_killed_one(tmp_path):
    code = """
import os, signal, sys, threading, time
from tests.training.loop.test_feeding import CPU, Feed, training
feed = Feed(training(2), CPU)
drawn = feed.batches(0)
next(drawn)
print(*(process.pid for process, _ in feed._pool._workers), flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
try:
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted", len(list(drawn)))
"""
    for how, end in (("interrupt", None), ("wait", signal.SIGKILL)):
        process = subprocess.Popen([sys.executable, "-c", code, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        if end:
            os.kill(process.pid, end)
        out, err = process.communicate(timeout=60)
        assert err == "" and (end or out == "interrupted 3\n")
        for _ in range(200):
            left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
            if not left:
                break
            time.sleep(0.05)
        assert not left


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
