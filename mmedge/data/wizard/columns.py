"""What one column of a manifest is, by its name and its cells: never by all or nothing, and with the reason."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars

from mmedge.data.manifest.splits import SPELLINGS, UNITS
from mmedge.data.wizard.glimpse import look
from mmedge.errors import brief
from mmedge.spec import ModalitySpec, TextSpec

ID = re.compile(r"(^|_|\b)(id|uuid|guid|key|index|nr|no|编号)($|_|\b)", re.IGNORECASE)
# Names of columns whose digits name something and count nothing.
_CODES = re.compile(
    r"(^|_|\b)(id|uuid|guid|zip|zip_?code|post(al)?_?code|plz|code|iban|barcode|isbn|ean|sku|mrn|icd|serial|编号|邮编)($|_|\b)",
    re.IGNORECASE,
)
# What names people, and is no feature of a sample.
_PERSONAL = re.compile(
    r"(^|_|\b)(surname|first_?name|last_?name|full_?name|e?mail|phone|address|ssn|passport|姓名|电话|地址|身份证)",
    re.IGNORECASE,
)
# What may name people or things: the cells tell.
_NAME = re.compile(r"(^|_|\b)name($|_|\b)", re.IGNORECASE)
_OF_A_PERSON = re.compile(r"[A-ZÀ-ÖØ-Þ][\w'’.-]*( [A-ZÀ-ÖØ-Þ][\w'’.-]*){0,3}|[\u3400-\u9fff]{2,4}")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ]\d\d?:\d\d.*)?|\d\d?[/.]\d\d?[/.]\d{2,4}( .*)?")
_DAY = r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
# A number with what people write around it: a currency, separators of thousands, a minus that is none, a unit.
_MEASURED = re.compile(
    r"(?P<before>[$€£¥₹]?) ?(?P<sign>[-+−]?)(?P<whole>\d{1,3}([,'’\u00a0\u2009\u202f ]\d{3})+|\d+)([.,]\d+)?"
    r" ?(?P<after>[^\W\d_]{1,5}[²³]?(/[^\W\d_]{1,4})?|[%‰]|°[CFK]?|)"
)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_UNNAMED = re.compile(r"|Unnamed: \d+|_duplicated_\d+", re.IGNORECASE)
# Spellings of a missing value, in lower case.
_MISSING = {"na", "n/a", "nan", "null", "none", "nil", "#n/a", "-", "--", "?", ".", "missing", "unknown", "inf", "-inf"}
# Cells that are looked at; the rest of a large manifest is taken to be like them.
_CELLS = 500


@dataclass(frozen=True)
class Column:
    """A column and its role.

    ``role``: image, audio, sensor, array, text, number, category, id, group, split, box, time, target or unused.
    ``spec``: the preprocessing that its files or texts suggest; ``distinct``: how many different values numbers,
    categories and words that are too many for these have. ``question``: what its user should ask of it before it is used.
    """

    name: str
    role: str
    why: str
    spec: ModalitySpec | None = None
    distinct: int = 0
    question: str | None = None


def some(cells: polars.Series) -> list[str]:
    """Some hundred of the cells that are there."""
    known = cells.drop_nulls()
    return known.gather_every(max(1, len(known) // _CELLS)).to_list()


def numeric(table: polars.DataFrame) -> dict[str, polars.Series]:
    """{column: its cells as float64, without the empty ones} of columns that hold finite numbers and nothing else.

    Digits with a leading zero name something and are no numbers. All columns at once: a table may have thousands.
    """
    stripped = table.select(polars.all().str.strip_chars())
    numbers = stripped.select(polars.all().cast(polars.Float64, strict=False))
    good = numbers.select(
        (polars.all().is_finite().sum() > 0) & (polars.all().is_finite().sum() == polars.all().count())
    )
    same = (numbers.null_count().row(0), table.null_count().row(0))
    named = stripped.select(polars.all().str.contains(r"^0\d").any()).row(0)
    return {
        name: numbers[name].drop_nulls()
        for name, fine, missing, empty, code in zip(table.columns, good.row(0), *same, named)
        if fine and missing == empty and not code
    }


def as_numbers(known: polars.Series) -> polars.Series | None:
    """The cells of one column as ``numeric`` gives them; None where they are no numbers."""
    return numeric(known.to_frame()).get(known.name)


def judged(cells: polars.Series, numbers: polars.Series | None, folder: Path) -> Column:
    """What a column is. ``numbers``: what ``numeric`` gives for it; ``folder``: that of the manifest."""
    name, known = cells.name, cells.drop_nulls()
    if not len(known):
        return Column(name, "unused", "it is empty")
    distinct = known.n_unique()
    if numbers is not None:
        if distinct >= 10 and bool(known.str.contains(f"^{_DAY}$").all()):
            return Column(name, "time", "days, as 20261130: no feature as they are; data.align joins streams by them")
        exact = not bool(known.str.contains(r"^\s*[-+]?\d{16,}\s*$").any())
        return _identifying(known, distinct, numbers, []) or _of_numbers(name, numbers, distinct, exact=exact)
    seen = some(known)
    file = look(seen, folder, name)
    if isinstance(file, str):
        return Column(name, "unused", file)
    if file:
        return Column(name, file.spec.kind, f"paths of {file.spec.kind} files ({file.count} looked at)", file.spec)
    if {str(cell).strip().lower() for cell in seen} <= SPELLINGS.keys() and distinct > 1:
        return Column(name, "split", f"it names splits: {', '.join(sorted(map(str, known.unique())))}")
    if all(_DATE.fullmatch(cell.strip()) for cell in seen):
        return Column(name, "time", "dates or times: no feature as they are; data.align joins streams by them")
    mixed = None if ID.search(name) or distinct == 1 else _nearly_numbers(known)
    if mixed:
        return Column(name, "unused", mixed)
    return _identifying(known, distinct, None, seen) or _of_words(known, distinct, seen)


def _identifying(known: polars.Series, distinct: int, numbers: polars.Series | None, seen: list[str]) -> Column | None:
    """An id, a unit or a person: what tells samples apart and is no feature of them; None where it is none of these."""
    name = known.name
    named = bool(ID.search(name))
    if distinct == len(known) > 2:
        plain = numbers is not None or all(re.fullmatch(r"\S+" if named else r"[\x21-\x7e]+", cell) for cell in seen)
        if plain and (named or numbers is None):
            return Column(name, "id", "every value is another")
        if numbers is not None and _counts_rows(numbers):
            low, high = numbers.to_numpy().min(), numbers.to_numpy().max()
            return Column(name, "id", f"every value is another: the numbers {low:.0f} to {high:.0f}")
    if UNITS.search(name) and distinct < len(known):
        if distinct >= 6:
            return Column(name, "group", f"{distinct} units: each is kept in one split")
        return Column(name, "unused", f"it names {distinct} units: too few to keep each in one split, and no feature")
    long = numbers is None or bool((numbers >= 1_000_000).all() and (numbers == numbers.round()).all())
    if _PERSONAL.search(name) and long and distinct > len(known) // 2:
        return Column(name, "unused", "it seems to name people: no feature, and nothing of it is written anywhere")
    if _NAME.search(name) and numbers is None and distinct > len(known) // 2:
        people = np.mean([bool(_OF_A_PERSON.fullmatch(cell.strip())) for cell in seen])
        if people > 0.5:
            why = "it seems to name people: no feature; where it names things, give it a modality, kind: text"
            return Column(name, "unused", why)
    return None


def _counts_rows(numbers: polars.Series) -> bool:
    """Whether these are n whole numbers one after the other, in any order."""
    values = np.sort(numbers.to_numpy())
    return bool((np.diff(values) == 1).all() and values[0] == round(values[0]))


def _of_numbers(name: str, numbers: polars.Series, distinct: int, *, exact: bool) -> Column:
    """An amount, or codes. ``exact``: whether floats hold the digits."""
    if distinct == 1:
        return Column(name, "unused", f"it is constant: {numbers[0]:g}")
    if not exact:
        return _codes(name, distinct, _few(len(numbers)), "of more digits than a number holds")
    if (_CODES.search(name) or _UNNAMED.fullmatch(name)) and bool((numbers == numbers.round()).all()):
        return _codes(name, distinct, _few(len(numbers)), "by its name they are codes")
    return Column(name, "number", f"{distinct} different numbers", distinct=distinct)


def _few(rows: int) -> int:
    """How many different words a column of categories has at most."""
    return max(2, min(50, rows // 4))


def _of_words(known: polars.Series, distinct: int, seen: list[str]) -> Column:
    """A category, a text, or why it is neither."""
    name, few = known.name, _few(len(known))
    if distinct == 1:
        return Column(name, "unused", f"it is constant: {brief(known[0])}")
    if all(cell.strip().isdigit() for cell in seen):
        return _codes(name, distinct, few, "digits with a leading zero are names")
    words = float(np.mean([len(cell.split()) for cell in seen]))
    if distinct <= few and words <= 4:
        question = (
            "do its equal rows belong together, as those of one thing do? Then make it data.group"
            if distinct >= 10
            else None
        )
        return Column(
            name, "category", f"{distinct} different words{missing(known)}", distinct=distinct, question=question
        )
    if words >= 1.5 or any(_CJK.search(cell) for cell in seen):
        tokens = [2 * len(cell.split()) + 2 * len(_CJK.findall(cell)) for cell in seen]
        vocabulary = len({word for cell in seen for word in cell.lower().split()} | set(_CJK.findall("".join(seen))))
        spec = TextSpec(
            kind="text",
            length=int(np.clip(8 * np.ceil(float(np.percentile(tokens, 95)) / 8), 8, 128)),
            tokenizer="bpe",
            vocabulary=int(np.clip(2 * vocabulary, 400, 8000)),
        )
        question = "does it name people? Then take it out, or redact it" if _NAME.search(name) else None
        return Column(name, "text", f"free text, {words:.1f} words on average", spec, question=question)
    why = f"{distinct} different words: too many for categories, too short for text"
    return Column(name, "unused", why, distinct=distinct)


def missing(known: polars.Series) -> str:
    """What to add to what is said of categories or classes where one is spelled as a missing value is; else nothing."""
    word = next((cell for cell in known.unique().sort().to_list() if cell.strip().lower() in _MISSING), None)
    return (
        ""
        if word is None
        else f"; {brief(word, 30)} is one of them: empty its cells where it means that nothing is known"
    )


def _codes(name: str, distinct: int, few: int, why: str) -> Column:
    if distinct <= few:
        return Column(name, "category", f"{distinct} different codes: {why}", distinct=distinct)
    why = f"{distinct} different codes, too many for categories: {why}, and no amounts"
    return Column(name, "unused", why, distinct=distinct)


def _nearly_numbers(known: polars.Series) -> str | None:
    """What to mend where most of the cells are numbers and some are not; None where it is no column of numbers."""
    stripped = known.str.strip_chars()
    if measured := _measured(stripped):
        return measured
    if bool(stripped.str.contains(r"^[-+]?\d+,\d+$").any()) and as_numbers(stripped.str.replace(",", ".")) is not None:
        return "its numbers have a decimal comma: write 36.5, say, and not 36,5"
    numbers = stripped.cast(polars.Float64, strict=False)
    finite = numbers.is_finite().fill_null(False)
    others = Counter(stripped.filter(~finite).to_list())
    count, whole = int(finite.sum()), len(known)
    if count <= whole / 2 or not others or bool(stripped.str.contains(r"^0\d").any()):
        return None
    missing = all(word.lower() in _MISSING for word in others)
    if not missing and (len(others) > 5 or stripped.filter(finite).n_unique() <= 10):  # sizes: 36, 38, 40, XL
        return None
    words = ", ".join(brief(word, 30) for word, _ in others.most_common(3)) + (", …" if len(others) > 3 else "")
    return f"{count} of {whole} cells are numbers, the others are {words}: empty them, and the numbers can be used"


def _measured(stripped: polars.Series) -> str | None:
    """What to mend where each cell is a number with the same currency, unit or separators around it; else None."""
    found = [_MEASURED.fullmatch(cell) for cell in some(stripped)]
    if stripped.n_unique() <= 10 or not all(found) or bool(stripped.str.contains(r"^0\d").any()):
        return None
    around = {(match["before"], match["after"]) for match in found if match}
    apart = any(not match["whole"].isdigit() for match in found if match)
    if len(around) > 1:
        return None
    before, after = around.pop()
    if apart and not before and not after and bool(stripped.str.contains(r"^[-+]?\d{1,3},\d{3}$").all()):
        return "its numbers have a comma: write 1234 where it parts thousands, 1.234 where it is a decimal comma"
    odd = [f"{before!r} before them"] * bool(before) + [f"{after!r} behind them"] * bool(after)
    odd += ["thousands set apart"] * apart
    odd += ["'−' in place of '-'"] * any(match["sign"] == "−" for match in found if match)
    return f"numbers with {' and '.join(odd)}: write them alone, as 1234.5, and they can be used" if odd else None
