"""Files inside of tar archives, read where they lie."""

import os
from pathlib import Path

import pytest

from mmedge.errors import MmedgeError
from mmedge.preprocess.members import address, content, exists, state


def test_a_member_is_its_bytes_and_what_the_archive_does_not_hold_is_told_before_room_is_made_for_it(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(range(100)))
    seen = state(100, archive.stat().st_mtime_ns)
    assert content(address(archive, 10, 5, "x.bin", seen)) == bytes(range(10, 15))
    huge = address(archive, 10, 10**15, "x.bin", seen)
    assert not exists(huge)
    with pytest.raises(MmedgeError, match="ends before the file does"):
        content(huge)
    with pytest.raises(MmedgeError, match="cannot be read"):
        content(address(Path("/nowhere.tar"), 0, 1, "x.bin", seen))
    assert content(archive) is None


def test_an_archive_that_was_written_anew_is_not_read_at_its_old_places(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(range(100)))
    place = address(archive, 10, 5, "x.bin", state(100, archive.stat().st_mtime_ns))
    archive.write_bytes(bytes(reversed(range(100))))
    os.utime(archive, ns=(0, archive.stat().st_mtime_ns + 1_000_000_000))
    with pytest.raises(MmedgeError, match=r"has changed since .*\n.*a\.tar\n.*looks for them anew"):
        content(place)
