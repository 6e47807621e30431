"""Writes filled-in forms and a table of the fields on them, for recipes/own-folds.yaml: digits cut out of sheets by boxes.

    python recipes/own_folds.py runs/folds

Every form is one picture with 24 handwritten digits (scikit-learn's, from the UCI repository), and every row of
``fields.csv`` one field: the form's picture, where the digit stands on it, how much ink it took, and the digit. The digits 8 and 9
are rare, as some classes always are.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS, LINES, FIELD = 6, 4, 32  # fields of 32 pixels


def main(target: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.target))
    order = order[(digits.target[order] < 8) | (rng.random(len(order)) < 0.3)]
    target.mkdir(parents=True, exist_ok=True)
    rows: list[list] = [["form", "x", "y", "w", "h", "ink", "digit"]]
    for form, first in enumerate(range(0, len(order) - COLUMNS * LINES + 1, COLUMNS * LINES)):
        sheet = Image.new("L", (COLUMNS * FIELD, LINES * FIELD), 0)
        for place, index in enumerate(order[first : first + COLUMNS * LINES]):
            x, y = place % COLUMNS * FIELD, place // COLUMNS * FIELD
            digit = Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).resize((FIELD - 8, FIELD - 8))
            sheet.paste(digit, (x + 4, y + 4))
            ink = "" if rng.random() < 0.1 else f"{digits.images[index].mean():.3f}"
            rows.append([f"form-{form}.png", x, y, FIELD, FIELD, ink, digits.target[index]])
        sheet.save(target / f"form-{form}.png")
    with (target / "fields.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    print(f"{target / 'fields.csv'}: {len(rows) - 1} fields")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
