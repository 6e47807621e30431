"""Files that several processes fill are those that one fills, bit for bit, and a full disk leaves none."""

import errno
import threading
import weakref

import numpy as np
import pytest

from mmedge.errors import MmedgeError
from mmedge.training.teaching import filling
from mmedge.training.teaching.kept import Form, joined

FORM = Form("float16", 4, frozenset({"logits"}))
ROWS = 50


def computed(rows):
    """Of one row float16 does not reach its logits."""
    logits = np.random.default_rng(0).normal(size=(ROWS, 20)).astype(np.float32)[rows]
    logits[rows == 33] *= 1e6
    return [rows % 3 > 0, FORM.packed(logits, "logits"), FORM.packed(logits[:, :2])]


class Together:
    """Threads in place of processes: each has its rank, and gets what all have given."""

    compute = staticmethod(computed)

    def __init__(self, count):
        self.number, self.own = count, threading.local()
        self.barrier, self.given = threading.Barrier(count, timeout=20), [None] * count

    def count(self):
        return self.number

    def rank(self):
        return self.own.rank

    def each(self, value):
        self.given[self.rank()] = value
        self.barrier.wait()
        found = list(self.given)
        self.barrier.wait()
        return found

    def of_main(self, call):
        return self.each(call() if self.rank() == 0 else None)[0]

    def wait(self):
        self.barrier.wait()

    def run(self, rank, paths):
        self.own.rank = rank
        filling.fill(paths, ROWS, self.compute)


def filled(folder, count, monkeypatch, together=None, pieces=100):
    paths, together = [folder / f"{number}.npy" for number in range(3)], together or Together(count)
    folder.mkdir()
    monkeypatch.setattr(filling, "_BATCH", 8)
    monkeypatch.setattr(filling, "_PIECE", pieces)
    monkeypatch.setattr(filling, "processes", together)
    threads = [threading.Thread(target=together.run, args=(rank, paths)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in folder.iterdir()) == ["0.npy", "1.npy", "2.npy"]
    return [path.read_bytes() for path in paths]


def test_any_number_of_processes_writes_the_files_of_one(tmp_path, monkeypatch):
    one = filled(tmp_path / "one", 1, monkeypatch)
    (tmp_path / "plain").mkdir()
    parts = [computed(np.arange(start, min(start + 8, ROWS))) for start in range(0, ROWS, 8)]
    for number, each in enumerate(zip(*parts)):
        np.save(tmp_path / "plain" / f"{number}.npy", joined(each))
        assert one[number] == (tmp_path / "plain" / f"{number}.npy").read_bytes()
    for count in (2, 3, 9):  # of nine two have no batch
        assert filled(tmp_path / str(count), count, monkeypatch) == one
        assert filled(tmp_path / f"pieces{count}", count, monkeypatch, pieces=2) == one


def test_an_interrupted_pass_goes_on_with_the_pieces_that_are_there(tmp_path, monkeypatch):
    with monkeypatch.context() as once:
        whole = filled(tmp_path / "whole", 1, once)
    monkeypatch.setattr(filling, "_BATCH", 8)
    monkeypatch.setattr(filling, "_PIECE", 2)
    (tmp_path / "pieces").mkdir()
    paths, asked, heard = [tmp_path / "pieces" / f"{number}.npy" for number in range(3)], [], []

    def interrupted(rows):
        asked.append(int(rows[0]))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return computed(rows)

    with pytest.raises(KeyboardInterrupt):
        filling.fill(paths, ROWS, interrupted, heard.append)
    assert asked == [0, 8, 16, 24] and not any(path.exists() for path in paths)
    filling.fill(paths, ROWS, interrupted, heard.append)
    assert asked[4:] == [16, 24, 32, 40, 48]  # of the first piece nothing
    assert heard == [0, 8, 16, 16, 24, 16, 24, 32, 32, 40, 48, 48, 50]
    assert sorted((tmp_path / "pieces").iterdir()) == paths and [path.read_bytes() for path in paths] == whole


def test_what_is_computed_is_written_and_let_go_of(tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "_BATCH", 8)
    known, held = [], []

    def compute(rows):
        held.append(sum(one() is not None for one in known))
        found = [np.full((len(rows), 3), rows[0], np.float32)]
        known.append(weakref.ref(found[0]))
        return found

    filling.fill([tmp_path / "0.npy"], 80, compute)
    assert len(held) == 10 and max(held) <= 1
    assert np.load(tmp_path / "0.npy")[:, 0].tolist() == [row - row % 8 for row in range(80)]


def test_processes_compute_equally_often_since_each_may_hold_a_part_of_the_teacher(tmp_path, monkeypatch):
    together, calls = Together(3), [0, 0, 0]

    def counted(rows):
        calls[together.rank()] += 1
        return computed(rows)

    together.compute = counted
    filled(tmp_path / "three", 3, monkeypatch, together)
    assert calls == [3, 3, 3]  # of seven batches


def test_a_full_disk_is_told_and_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filling, "widened", full)
    with pytest.raises(MmedgeError, match="cannot write: No space left"):
        filling.fill([tmp_path / f"{number}.npy" for number in range(3)], ROWS, computed)
    assert list(tmp_path.iterdir()) == []
