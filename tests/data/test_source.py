"""A manifest that cannot be read as one says what to do with it."""

import pytest

from mmedge.data.source import read_table
from mmedge.errors import MmedgeError


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_table_of_another_separator_is_told_with_its_separator(tmp_path, mark):
    (tmp_path / "m.csv").write_text(f"id{mark}label\n1{mark}a\n")
    with pytest.raises(MmedgeError, match="separated by") as raised:
        read_table(tmp_path / "m.csv")
    assert repr(mark) in str(raised.value) and "commas" in str(raised.value)


def test_a_table_that_is_not_utf_8_is_told_with_what_to_do(tmp_path):
    (tmp_path / "m.csv").write_bytes("id,label\n1,é\n".encode("latin-1"))
    with pytest.raises(MmedgeError, match="save it as UTF-8"):
        read_table(tmp_path / "m.csv")


def test_a_table_of_one_column_is_one(tmp_path):
    (tmp_path / "m.csv").write_text("label\na;b\n")
    assert read_table(tmp_path / "m.csv")["label"].to_list() == ["a;b"]
