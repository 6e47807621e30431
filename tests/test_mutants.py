"""``make mutants`` can make every change that it lists: the code that it changes stands there, once."""

from tests.mutants import CHANGES, ROOT


def test_every_change_of_meaning_can_be_made_and_names_tests_that_there_are():
    for change in CHANGES:
        text = (ROOT / "mmedge" / change.file).read_text(encoding="utf-8")
        assert text.count(change.old) == 1, f"{change.file}: {change.old}"
        assert change.new != change.old
        for test in change.tests.split():
            assert (ROOT / "tests" / test).exists(), test
