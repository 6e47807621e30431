"""Spoken digits said one after another, as sounds with what was said. For recipes/spoken-strings.yaml.

    python recipes/spoken_strings.py RECORDINGS runs/strings    # the Free Spoken Digit Dataset's folder of recordings
    python recipes/spoken_strings.py - runs/strings             # none at hand: voices of espeak-ng, of mmedge[demo]

A row is one or two recordings of one speaker, a short silence between them, and their digits as words: "three nine".
Takes 0-9 of each digit and speaker are for the test split, 10-14 for validation; there each is heard once, so that
strings share no recording. Training hears the others, several times each, in other company.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from mmedge.data.builtin import voices

MOST, PAUSE_S, STRINGS = 2, (0.02, 0.15), 1500  # digits of a string, seconds between them, strings of training
SECONDS, NOISE = 1.6, 0.002  # of a sound, of which one in fifty is cut; the noise's standard deviation


def spoken(folder: Path | None) -> dict[tuple[str, str], list[voices.Recording]]:
    """{(split, speaker): recordings}; synthetic voices, of which each digit is another, count as one speaker."""
    found = defaultdict(list)
    if folder is None:
        for each in voices.synthesize_recordings(0, lambda done, total: None):
            found[each.split, "synthetic"].append(each)
        return found
    for each in voices.load_recordings(folder):
        _, speaker, take = each.group.split("_")
        split = "test" if int(take) < 10 else "validation" if int(take) < 15 else "train"
        found[split, speaker].append(each)
    return found


def strings(
    recordings: list[voices.Recording], count: int | None, random: np.random.Generator
) -> list[list[voices.Recording]]:
    """Recordings in strings of one or two: each once, or drawn again and again where ``count`` says for how many."""
    if count is not None:
        sizes = random.integers(1, MOST + 1, count)
        return [[recordings[i] for i in random.integers(0, len(recordings), size)] for size in sizes]
    left, found = [recordings[i] for i in random.permutation(len(recordings))], []
    while left:
        size = int(random.integers(1, MOST + 1))
        found.append(left[:size])
        left = left[size:]
    return found


def sound_of(string: list[voices.Recording], random: np.random.Generator) -> np.ndarray:
    """float32 [samples] of one length: the recordings, and the faint noise of a microphone, without which silence is none."""
    sound = random.normal(0, NOISE, int(SECONDS * voices.RATE)).astype(np.float32)
    at = 0
    for each in string:
        at += int(random.uniform(*PAUSE_S) * voices.RATE)
        heard = each.samples[: max(0, len(sound) - at)]
        sound[at : at + len(heard)] += heard
        at += len(heard)
    return sound


def main(folder: Path | None, target: Path) -> None:
    import soundfile

    random = np.random.default_rng(0)
    (target / "sounds").mkdir(parents=True, exist_ok=True)
    rows = [["id", "sound", "words", "speaker", "split"]]
    known = spoken(folder)
    speakers = len({speaker for _, speaker in known})
    for (split, speaker), recordings in sorted(known.items()):
        for number, string in enumerate(strings(recordings, STRINGS // speakers if split == "train" else None, random)):
            name = f"{split}-{speaker}-{number}"
            soundfile.write(target / "sounds" / f"{name}.wav", sound_of(string, random), voices.RATE)
            words = " ".join(voices.DIGITS[each.digit] for each in string)
            rows.append([name, f"sounds/{name}.wav", words, speaker, split])
    with (target / "strings.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    print(f"{target / 'strings.csv'}: {len(rows) - 1} strings of digits")


if __name__ == "__main__":
    main(None if sys.argv[1] == "-" else Path(sys.argv[1]), Path(sys.argv[2]))
