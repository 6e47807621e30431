"""Errors: one to three lines, and one exit code each."""

import pytest

from mmedge import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.MmedgeError, 1),
        (errors.UsageError, 2),
        (errors.AccuracyGateFailed, 3),
        (errors.LatencyGateFailed, 4),
        (errors.MismatchError, 5),
        (errors.MissingDependency, 6),
        (errors.Interrupted, 130),
    ],
)
def test_every_kind_has_the_exit_code_of_the_contract(kind, code):
    assert issubclass(kind, errors.MmedgeError) and kind("x").exit_code == code


def test_an_error_says_what_where_and_what_to_do_on_three_lines():
    text = str(errors.MmedgeError("it broke", where="file.png", todo="mend it"))
    assert text.splitlines() == ["it broke", "  at: file.png", "  do: mend it"]


def test_an_error_leaves_out_the_lines_it_has_nothing_for():
    assert str(errors.MmedgeError("it broke")) == "it broke"
    assert str(errors.MmedgeError("it broke", todo="mend it")).splitlines() == ["it broke", "  do: mend it"]


def test_did_you_mean_offers_a_near_word_and_keeps_silent_about_far_ones():
    assert errors.did_you_mean("imag", ["audio", "image"]) == " (did you mean 'image'?)"
    assert errors.did_you_mean("zzz", ["audio", "image"]) == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\ntwo"), "one"),
        (ValueError(""), "ValueError"),
        (RuntimeError(" \n"), "RuntimeError"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_the_first_line_of_a_foreign_exception_is_never_empty(error, said):
    assert errors.first_line(error) == said


def test_an_error_that_quotes_a_cell_of_megabytes_stays_short():
    error = errors.MmedgeError(f"the cell {'x' * 5_000_000!r} is no number", where="m.csv", todo="y" * 5_000_000)
    assert len(str(error)) < 4000 and error.what.startswith("the cell 'xxx") and error.what.endswith("…")
    fault = errors.Fault("error", "number", f"the cell {'x' * 5_000_000!r} is no number", "m.csv")
    assert len(fault.what) < 2000 and errors.Fault.of(error, "cell").file == "m.csv"
    lines = "\n".join("a line of a list" for _ in range(1000))
    assert errors.UsageError(lines).what == lines  # many lines are many faults
