"""Processes that begin views: what they cannot do is told by the one that trains, and where batches lie if memory is short."""

import errno
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmedge.data import workers
from mmedge.data.store.rows import Rows, Shards
from mmedge.data.views import Views
from mmedge.data.workers import Workers
from mmedge.errors import MmedgeError
from mmedge.recipe import Augment
from mmedge.spec import AudioSpec

SPEC = AudioSpec(kind="audio", features="waveform", length=400)


def of_sound(folder, **augment):
    shards = Shards(folder / "train", "int16", 8, SPEC.shape)
    np.save(shards.files[0][0], np.arange(3200, dtype=np.int16).reshape(8, 400))
    # So many that they are not held in memory.
    rows = Rows(SPEC, shards, np.ones(8, bool))
    return Views({"sound": rows}, {"sound": Augment(**augment)} if augment else {}, 0, 8)


def test_what_a_worker_raises_is_raised_where_its_answer_is_read_and_the_others_go_on(tmp_path):
    views, index = of_sound(tmp_path, snr=(0, 1), noise_folder=tmp_path / "no"), np.arange(4)
    example = of_sound(tmp_path, gain=1).begin(of_sound(tmp_path).asked(index, 0))
    pool = Workers(views, 1, 4, example)
    with pytest.raises(MmedgeError, match=r"the folder of noises does not exist\n.*no\n.*white noise"):
        list(pool.begun([views.asked(index, 0)]))
    assert not pool.close.alive


def test_where_memory_has_no_room_batches_lie_on_the_disk_and_where_that_is_full_it_is_told(monkeypatch):
    asked, full = [], {"/dev/shm"}

    def unnamed(folder):
        asked.append(str(folder))
        return real(folder)

    def reserve(descriptor, start, size):
        if asked[-1] in full:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = workers._unnamed
    monkeypatch.setattr(workers, "_unnamed", unnamed)
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with closing(workers._reserved(1000)) as file:
        assert os.fstat(file.fileno()).st_size == 1000 and asked == ["/dev/shm", "None"]
    full.add("None")
    with pytest.raises(MmedgeError, match=r"no room for the batches.*No space left.*\n.*/dev/shm.*\n.*fewer data.batch_workers"):  # fmt: skip
        workers._reserved(1000)
    assert not list(Path("/dev/shm").glob("tmp*"))  # files without a name
