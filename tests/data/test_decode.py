"""Decoding to files on disk."""

import errno
import os

import pytest

from mmedge.data import decode
from mmedge.errors import MmedgeError
from mmedge.progress import Silent
from mmedge.spec import ArraySpec


def test_a_full_disk_is_told_before_anything_is_written_to_the_mapped_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MmedgeError, match="No space left") as raised:
        decode.decode(
            ArraySpec(kind="array", shape=(2,)), "a", [], 3, tmp_path, tmp_path / "a.npy", workers=1, progress=Silent()
        )
    assert "a.npy" in str(raised.value) and "--out" in str(raised.value)
