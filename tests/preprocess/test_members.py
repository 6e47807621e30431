"""Files inside of tar archives, read where they lie."""

from pathlib import Path

import pytest

from mmedge.errors import MmedgeError
from mmedge.preprocess.members import address, content, exists


def test_a_member_is_its_bytes_and_what_the_archive_does_not_hold_is_told_before_room_is_made_for_it(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(range(100)))
    assert content(address(archive, 10, 5, "x.bin")) == bytes(range(10, 15))
    huge = address(archive, 10, 10**15, "x.bin")
    assert not exists(huge)
    with pytest.raises(MmedgeError, match="ends before the file does"):
        content(huge)
    with pytest.raises(MmedgeError, match="cannot be read"):
        content(address(Path("/nowhere.tar"), 0, 1, "x.bin"))
    assert content(archive) is None
