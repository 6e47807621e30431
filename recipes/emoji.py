"""Writes a table of emoji: a picture, an English name and one of 8 categories. For recipes/emoji.yaml and its kin.

    npm pack emoji-datasource-twitter@16.0.0
    mkdir -p runs/emoji && tar -xzf emoji-datasource-twitter-16.0.0.tgz -C runs/emoji
    python recipes/emoji.py runs/emoji/package runs/emoji/table.csv

The pictures are Twitter's (CC BY 4.0), 64 x 64 pixels; the package is iamcal's emoji-data (MIT).
"""

import csv
import json
import os
import sys
from pathlib import Path

# Flags are told by their names alone, and Component holds five.
LEFT_OUT = ("Flags", "Component")


def main(package: Path, target: Path) -> None:
    known = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
    chosen = [emoji for emoji in known if emoji["has_img_twitter"] and emoji["category"] not in LEFT_OUT]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "picture", "name", "kin", "category", "kindred"])
        drawn: dict[bytes, str] = {}
        joined: dict[str, str] = {}

        def root(kin: str) -> str:
            while joined.get(kin, kin) != kin:
                kin = joined[kin]
            return kin

        rows = []
        for emoji in chosen:
            picture = package / "img" / "twitter" / "64" / emoji["image"]
            # A police officer comes as a person, a man and a woman: one thing in three poses, kept in one split.
            kin = " ".join(
                word
                for word in emoji["name"].lower().split()
                if word not in ("man", "woman", "male", "female", "person")
            )
            # Families are drawn alike, whoever is in them: whoever guesses names by pictures must not have seen the picture.
            joined[root(kin)] = root(drawn.setdefault(picture.read_bytes(), kin))
            rows.append(
                [
                    emoji["short_name"],
                    os.path.relpath(picture, target.parent),
                    emoji["name"].lower(),
                    kin,
                    emoji["category"],
                ]
            )
        table.writerows([*row, root(row[3])] for row in rows)
    print(f"{target}: {len(chosen)} emoji")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
