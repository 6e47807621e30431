"""Tables as people have them: what is wrong with one as a file is told with its row and what to do."""

import json

import polars
import pytest

from mmedge.data.manifest.table import read_table
from mmedge.errors import MmedgeError

ROWS = "a,b\n1,x\n2,y\n"


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("m.csv", "", "cannot be read"),
        ("m.csv", "a,b\n", "no rows"),
        ("m.csv", "a,b\n1,x\n2\n", "the row has 1 cells, and the header 2.*\n.*row 2"),
        ("m.csv", "a,b\n1,x\n2,y,z\n", "the row has 3 cells, and the header 2.*\n.*row 2"),
        ("m.csv", 'a,b\n1,x\n"2,y\n', "row 2.*\n.*close its quotes"),
        ("m.csv", "a,a\n1,x\n", "two columns of the manifest are called 'a'"),
        ("m.csv", "a;b\n1;x,y\n", "separated by ';'"),
        ("m.csv", ROWS.replace("\n", "\r"), "carriage return alone"),
        ("m.csv", ROWS.encode("utf-16"), "save it as UTF-8"),
        ("m.csv", "名,b\n红,x\n".encode("gbk"), "save it as UTF-8"),
        ("m.xlsx", b"PK\x03\x04", "a .xlsx file, which is not read"),
        ("m.json", '[{"a": 1}]', "a .json file, which is not read"),
        ("m.jsonl", '{"a": 1}\n{"a": 2, \n{"a": 3}\n', "no JSON.*\n.*row 2"),
        ("m.jsonl", '{"a": 1}\n{"a": 2, "a": 3}\n', "two columns are called 'a'.*\n.*row 2"),
        ("m.jsonl", '[{"a": 1}]', "holds a list, and no object.*\n.*row 1"),
        ("m.parquet", b"PAR1 and then nothing", "cannot be read"),
    ],
)
def test_a_broken_table_is_told_in_three_lines(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MmedgeError, match=said) as raised:
        read_table(tmp_path / name)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3 and str(tmp_path / name) in lines[1]


def test_a_folder_in_place_of_a_table_is_told(tmp_path):
    with pytest.raises(MmedgeError, match="is a folder"):
        read_table(tmp_path)


def test_nested_columns_of_a_parquet_file_are_told_by_name(tmp_path):
    table = polars.DataFrame({"a": [1], "b": [{"x": 1, "y": 2}]})
    table.write_parquet(tmp_path / "m.parquet")
    with pytest.raises(MmedgeError, match="those of 'b' are objects"):
        read_table(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.replace("\n", "\r\n").encode(),
        b'a,b\n"1","x"\n2,y',
    ],
)
def test_a_byte_order_mark_windows_lines_and_quotes_are_no_fault(tmp_path, content):
    (tmp_path / "m.csv").write_bytes(content)
    assert read_table(tmp_path / "m.csv").rows() == [("1", "x"), ("2", "y")]


def test_a_cell_of_a_megabyte_and_a_key_that_a_line_lacks_are_no_fault(tmp_path):
    (tmp_path / "m.csv").write_text(f"a,b\n1,{'x' * 1_000_000}\n")
    assert len(read_table(tmp_path / "m.csv")["b"][0]) == 1_000_000
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in ({"a": "红"}, {"a": None, "b": True})))
    assert read_table(tmp_path / "m.jsonl").rows() == [("红", None), (None, "true")]
