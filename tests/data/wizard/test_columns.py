"""What ``init`` takes a column for: not by all or nothing, and what it does not use says what to mend."""

import numpy as np
import polars
import pytest

from mmedge.data.wizard.columns import as_numbers, judged
from mmedge.data.wizard.propose import Wishes, propose
from mmedge.errors import MmedgeError, UsageError
from tests.data.made import write_table

RNG = np.random.default_rng(0)
NUMBERS = [f"{36 + x:.2f}" for x in RNG.random(400)]


def column(name, cells, folder):
    given = polars.Series(name, cells, polars.String)
    return judged(given, as_numbers(given), folder)


def one_in(period, other, cells):
    return [other if i % period == 3 else cell for i, cell in enumerate(cells)]


@pytest.mark.parametrize("spelled", ["NA", "N/A", "nan", "NULL", "None", "#N/A", "-", "?", "broken"])
def test_numbers_with_a_word_for_missing_say_what_to_empty(tmp_path, spelled):
    found = column("temperature", one_in(8, spelled, NUMBERS), tmp_path)
    assert (
        found.role == "unused" and f"350 of 400 cells are numbers, the others are '{spelled}': empty them" in found.why
    )


def test_whole_numbers_with_a_word_for_missing_are_no_categories(tmp_path):
    ages = one_in(20, "NA", [str(20 + i % 40) for i in range(400)])
    assert "380 of 400 cells are numbers" in column("age", ages, tmp_path).why


def test_sizes_that_are_numbers_and_letters_are_categories(tmp_path):
    assert column("size", [("36", "38", "40", "XL")[i % 4] for i in range(100)], tmp_path).role == "category"


def test_blanks_around_numbers_are_no_fault_and_a_decimal_comma_is_told(tmp_path):
    assert column("t", [f" {number}" for number in NUMBERS], tmp_path).role == "number"
    assert "decimal comma" in column("t", [number.replace(".", ",") for number in NUMBERS], tmp_path).why


OTHERS = [f"{i}{cell[2:]}" for i, cell in enumerate(NUMBERS, 1)]  # no two alike


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([f"{x}%" for x in NUMBERS], "'%' behind them"),
        ([f"{x}%" for x in OTHERS], "'%' behind them"),
        ([f"${x}" for x in OTHERS], "'$' before them"),
        ([f"{x} °C" for x in NUMBERS], "'°C' behind them"),
        ([f"{x} km/h" for x in OTHERS], "'km/h' behind them"),
        ([f"−{x}" for x in NUMBERS], "'−' in place of '-'"),
        ([f"1,{100 + i},000" for i in range(400)], "thousands set apart"),
        ([f"1,{100 + i}" for i in range(400)], "parts thousands"),
    ],
)
def test_numbers_with_something_around_them_are_no_words_texts_or_ids(tmp_path, cells, said):
    found = column("t", cells, tmp_path)
    assert found.role == "unused" and said in found.why


@pytest.mark.parametrize("cells", [["12A", "7B"] * 40, ["3 cats", "1 dog"] * 40, [f"p{i}" for i in range(80)]])
def test_words_that_begin_with_digits_are_words(tmp_path, cells):
    assert "write them alone" not in column("t", cells, tmp_path).why


@pytest.mark.parametrize(
    ("name", "cells", "role"),
    [
        ("phone", [str(4915100000000 + 37 * i) for i in range(400)], "unused"),
        ("emails", [str(i % 300) for i in range(400)], "number"),
        ("visitor", [str(1234567890123456789 + 7 * i) for i in range(400)], "unused"),
        ("mass", [f"{i}e20" for i in range(1, 401)], "number"),
        ("day", [f"2026{1 + i % 12:02}{1 + i % 28:02}" for i in range(400)], "time"),
        ("area", [str(20260101 + 37 * i) for i in range(400)], "number"),
        ("zip", [("00501", "02134", "90210", "07310")[i % 4] for i in range(100)], "category"),
        ("zip", [f"{i * 37 % 99999:05}" for i in range(400)], "id"),
        ("zip", [f"{i // 2 * 37 % 99999:05}" for i in range(400)], "unused"),
        ("postal_code", [str(10000 + i // 2 * 7) for i in range(400)], "unused"),
        ("product_id", [str(100 + i % 5) for i in range(400)], "category"),
        ("product_id", [str(100 + i // 2) for i in range(400)], "unused"),
        ("", [str(i) for i in RNG.permutation(400)], "id"),
        ("Unnamed: 0", [str(i + 1) for i in RNG.permutation(400)], "id"),
        ("steps", [str(i // 2) for i in range(400)], "number"),
    ],
)
def test_digits_that_name_something_are_no_amounts(tmp_path, name, cells, role):
    assert column(name, cells, tmp_path).role == role


def test_codes_with_leading_zeros_are_classes(tmp_path):
    rows = [[NUMBERS[i], f"{i % 43:02}"] for i in range(400)]
    table = write_table(tmp_path / "m.csv", [["temperature", "label"], *rows])
    assert propose(table).task == "classification"
    with pytest.raises(UsageError, match="holds no numbers"):
        propose(table, Wishes(task="regression"))


def test_whole_numbers_as_a_target_are_a_regression_that_says_how_they_become_classes(tmp_path):
    rows = [[NUMBERS[i], str(i % 43)] for i in range(400)]
    table = write_table(tmp_path / "m.csv", [["temperature", "label"], *rows])
    found = propose(table)
    assert found.task == "regression" and "--task classification" in found.columns[1].why
    assert propose(table, Wishes(task="classification")).classes == 43


def test_a_class_whose_name_has_the_separator_in_it_is_one_class(tmp_path):
    rows = [[NUMBERS[i], ("a;b", "c", "d")[i % 3]] for i in range(90)]
    assert propose(write_table(tmp_path / "m.csv", [["t", "label"], *rows])).task == "classification"
    rows = [[NUMBERS[i], ("a;b", "b;c", "c")[i % 3]] for i in range(90)]
    assert propose(write_table(tmp_path / "n.csv", [["t", "label"], *rows])).task == "multilabel"


@pytest.mark.parametrize("first", [["img.png", "cat"], ["38.44", "cat"]])
def test_a_first_line_that_is_a_sample_is_told(tmp_path, first):
    (tmp_path / "img.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=f"no header: it holds '{first[0]}'"):
        propose(write_table(tmp_path / "m.csv", [first, *([f"{i}.5", "ab"[i % 2]] for i in range(40))]))


def test_columns_that_are_numbered_are_a_header(tmp_path):
    rows = [[NUMBERS[i], NUMBERS[-i], "ab"[i % 2]] for i in range(40)]
    assert propose(write_table(tmp_path / "m.csv", [["0", "1", "label"], *rows])).target == "label"


def test_a_class_or_category_that_is_spelled_as_a_missing_value_is_told(tmp_path):
    words = one_in(8, "NA", ["cat", "dog"] * 200)
    assert "'NA' is one of them" in column("kind", words, tmp_path).why
    found = propose(write_table(tmp_path / "m.csv", [["t", "label"], *zip(NUMBERS, words)]))
    assert found.classes == 3 and "'NA' is one of them" in found.columns[1].why
    rows = [[a, b] for a, b in zip(NUMBERS, one_in(8, "NA", ["0", "1"] * 200))]
    with pytest.raises(UsageError, match="label: 350 of 400 cells are numbers"):
        propose(write_table(tmp_path / "n.csv", [["t", "label"], *rows]))


@pytest.mark.parametrize(("rows", "classes"), [(90, 30), (400, 60), (6, 3)])
def test_a_column_that_is_called_label_is_the_target_however_many_classes_it_has(tmp_path, rows, classes):
    cells = [[NUMBERS[i], f"c{i % classes}"] for i in range(rows)]
    found = propose(write_table(tmp_path / "m.csv", [["t", "label"], *cells]))
    assert (found.target, found.task, found.classes) == ("label", "classification", classes)


def test_the_target_by_another_name_is_asked_of(tmp_path):
    rows = [[NUMBERS[i], str(i % 3), "rgb"[i % 2], "abc"[i % 3]] for i in range(90)]
    code, colour = propose(write_table(tmp_path / "m.csv", [["t", "code", "colour", "label"], *rows])).columns[1:3]
    assert "target by another name" in (code.question or "") and colour.question is None


def test_names_of_things_are_proposed_with_a_question_and_names_of_people_are_not(tmp_path):
    colours, things = ["red", "blue", "green", "grey"], ["cat", "dog", "house", "tree", "boat"]
    rows = [
        [f"{colours[i % 4]} {things[i % 5]} no. {i}", f"Anna M{'abcdef'[i % 6]}ller-{chr(65 + i % 26)} Xu", "ab"[i % 2]]
        for i in range(80)
    ]
    rows = [
        [thing, f"{person}{'xyz'[n // 26 % 3] * (n // 26)}", label] for n, (thing, person, label) in enumerate(rows)
    ]
    found = propose(write_table(tmp_path / "m.csv", [["name", "name_of_owner", "label"], *rows]))
    thing, person, _ = found.columns
    assert thing.role == "text" and "people" in (thing.question or "") and found.modalities["name"].kind == "text"
    assert person.role == "unused" and "people" in person.why


def test_a_category_of_many_values_is_asked_of_whether_it_groups(tmp_path):
    kin = column("kin", [f"kin-{i // 6}" for i in range(120)], tmp_path)
    assert kin.role == "category" and "data.group" in (kin.question or "")
    assert column("colour", ["red", "green", "blue"] * 40, tmp_path).question is None


def test_a_group_that_is_named_groups_whatever_it_looks_like(tmp_path):
    rows = [[NUMBERS[i], f"{['red', 'blue', 'green'][i % 3]} kin", "ab"[i % 2]] for i in range(60)]
    table = write_table(tmp_path / "m.csv", [["t", "kin", "label"], *rows])
    assert propose(table).group is None
    found = propose(table, Wishes(group="kin"))
    assert found.group == "kin" and not found.modalities["tabular"].categorical
    with pytest.raises(UsageError, match="did you mean 'kin'"):
        propose(table, Wishes(group="kim"))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"blob": [b"\x89PNG\xff", b"\x00"] * 20}, "those of 'blob' are bytes"),
        ({"lasts": polars.Series([1000, 2000] * 20).cast(polars.Duration("ms"))}, "those of 'lasts' are durations"),
        ({"box": [{"x": 1}, {"x": 2}] * 20}, "those of 'box' are objects"),
        ({"boxes": [[{"x": 1}], [{"x": 2}]] * 20}, "those of 'boxes' are lists of objects"),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_cells_that_are_no_texts_or_numbers_are_told_with_their_column(tmp_path, frame, said, ending):
    table = polars.DataFrame(frame | {"label": ["a", "b"] * 20})
    if ending == "parquet":
        table.write_parquet(tmp_path / "m.parquet")
    elif "objects" in said:
        table.write_ndjson(tmp_path / "m.jsonl")
    else:
        pytest.skip("JSON has neither bytes nor durations")
    with pytest.raises(MmedgeError, match=said):
        propose(tmp_path / f"m.{ending}")


def test_nan_in_jsonl_and_in_parquet_is_a_missing_cell(tmp_path):
    lines = [f'{{"t": {"NaN" if i == 5 else NUMBERS[i]}, "label": "{"ab"[i % 2]}"}}' for i in range(40)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    polars.DataFrame({"t": [float("nan"), *map(float, NUMBERS[:39])], "label": ["a", "b"] * 20}).write_parquet(
        tmp_path / "m.parquet"
    )
    for ending in ("jsonl", "parquet"):
        found = propose(tmp_path / f"m.{ending}")
        assert found.columns[0].role == "number" and found.holes == {"t": 1}


@pytest.mark.parametrize("written", ["img\\{}.png", "IMG/{}.png", "img/{}.PNG", "img\\{}.Png"])
def test_pictures_whose_paths_are_spelled_otherwise_are_told_and_not_dropped(tmp_path, written):
    (tmp_path / "img").mkdir()
    for i in range(40):
        (tmp_path / f"img/p{i}.png").write_bytes(b"x")
    rows = [[written.format(f"p{i}"), NUMBERS[i], "ab"[i % 2]] for i in range(40)]
    with pytest.raises(UsageError, match=r"is 'img/p0\.png'"):
        propose(write_table(tmp_path / "m.csv", [["photo", "t", "label"], *rows]))


def test_one_cell_of_a_megabyte_among_numbers_is_told_in_a_line(tmp_path):
    found = column("t", [*NUMBERS[:59], "z" * 1_000_000], tmp_path)
    assert "59 of 60 cells are numbers" in found.why and len(found.why) < 200


def test_json_that_nests_without_end_is_told_with_its_row_at_once(tmp_path):
    for opened, closed in (("[" * 300, "]" * 300), ('{"a": ' * 300, "}" * 300)):
        lines = [f'{{"t": {NUMBERS[i]}, "x": {f"{opened}1{closed}" if i == 7 else 1}}}' for i in range(40)]
        (tmp_path / "m.jsonl").write_text("\n".join(lines))
        with pytest.raises(MmedgeError, match=r"nests too deep.*\n.*row 8"):
            propose(tmp_path / "m.jsonl")
