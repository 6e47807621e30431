"""Tables of samples as ``predict`` and ``evaluate`` read them: what is absent is told, what is twice refused."""

import pytest

from mmedge.contract import Contract
from mmedge.data.rows import read_rows
from mmedge.errors import MmedgeError
from mmedge.runtime.rows import lacking
from mmedge.spec import ImageSpec, TabularSpec

CONTRACT = Contract(
    task="classification",
    labels=("a", "b"),
    modalities={
        "see": ImageSpec(kind="image", height=4, width=4, column="path", box=("l", "t", "r", "b")),
        "vitals": TabularSpec(kind="tabular", columns=("pulse", "age"), categorical=("sex",)),
    },
)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["path", "l", "t", "r", "b", "pulse", "age", "sex"], []),
        (["path", "l", "t", "r", "pulse", "sex"], ["'b' of see", "'age' of vitals"]),
        (["age", "l"], ["see", "'pulse' of vitals", "'sex' of vitals"]),
    ],
)
def test_columns_that_a_table_lacks_are_told_each(columns, said):
    assert lacking(CONTRACT, dict.fromkeys(columns, "1")) == said


@pytest.mark.parametrize(("ending", "text"), [("csv", "p,p\n1,2\n"), ("jsonl", '{"p": 1, "p": 2}\n')])
def test_a_name_that_stands_twice_is_refused(tmp_path, ending, text):
    (tmp_path / f"t.{ending}").write_text(text)
    with pytest.raises(MmedgeError, match="two columns are called 'p'"):
        list(read_rows(tmp_path / f"t.{ending}"))


@pytest.mark.parametrize(("ending", "text"), [("csv", "p\n1\n"), ("jsonl", '{"p": 1}\n')])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, ending, text):
    (tmp_path / f"t.{ending}").write_text(text, encoding="utf-8-sig")
    assert [row.cells for row in read_rows(tmp_path / f"t.{ending}")] == [{"p": "1"}]
