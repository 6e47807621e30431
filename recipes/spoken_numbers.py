"""Numbers read aloud by synthetic voices, as log-mel frames; and frames turned into sound. For recipes/spoken-numbers.yaml.

    python recipes/spoken_numbers.py runs/spoken            # the table and its frames, by espeak-ng of mmedge[demo]
    python recipes/spoken_numbers.py said.npy said.wav      # what the network said, by Griffin-Lim

Zero to ninety-nine by eight voices, each time at another speed and pitch: the network reads words and a voice. A frame is the natural logarithms of 40 mel energies, every 16 ms, as mmedge's own
preprocessing takes them (Kaldi's).
"""

import csv
import sys
from pathlib import Path

import numpy as np

from mmedge import preprocess
from mmedge.data.builtin import voices
from mmedge.spec import AudioSpec

RATE, MELS, HOP, WINDOW = 16000, 40, 256, 512  # samples a second, bands, samples of a hop and a window
MOST = 72  # frames
SPEC = AudioSpec(
    kind="audio", sample_rate=RATE, mels=MELS, hop_ms=1000 * HOP / RATE, window_ms=1000 * WINDOW / RATE, frames=MOST
)
VOICES = [("en-us", "m1"), ("en-us", "f2"), ("en-gb-x-rp", "m3"), ("en-gb-x-rp", "f1"), ("en-gb-scotland", "m2"),
          ("en-gb-scotland", "f3"), ("en-029", "m4"), ("en-029", "f4")]  # fmt: skip
ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """42 is forty two."""
    tens, ones = divmod(number, 10)
    return ONES[number] if number < 20 else TENS[tens] + (f" {ONES[ones]}" if ones else "")


def write(folder: Path, numbers: int = 100) -> None:
    """The table ``numbers.csv`` and a .npy file of frames [n, 40] a row."""
    say, rate, _ = voices.espeak(seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [["id", "number", "words", "accent", "variant", "speed", "pitch", "frames"]]
    random = np.random.default_rng(0)
    for number in range(numbers):
        for accent, variant in VOICES:
            speed, pitch = int(random.integers(150, 210)), int(random.integers(35, 65))
            sound = say(in_words(number), f"{accent}+{variant}", speed, pitch)
            loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
            if not len(loud):  # a few voices are mute for a word
                continue
            sound = sound[loud[0] : loud[-1] + 1]
            frames = preprocess.raw_features(SPEC, (sound, rate))[0].T[: -(-len(sound) * RATE // rate // HOP)]
            name = f"{number}-{accent}-{variant}"
            np.save(folder / f"{name}.npy", frames.astype(np.float32))
            rows.append([name, str(number), in_words(number), accent, variant, str(speed), str(pitch), f"{name}.npy"])
    with (folder / "numbers.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    print(f"{folder / 'numbers.csv'}: {len(rows) - 1} spoken numbers")


def mel_filters() -> np.ndarray:
    """[40, 257]: Kaldi's triangles on the HTK mel scale, from 20 Hz to half the rate."""
    mel = 1127 * np.log1p(np.arange(WINDOW // 2 + 1) * RATE / WINDOW / 700)
    edges = np.linspace(*(1127 * np.log1p(np.array([20, RATE / 2]) / 700)), MELS + 2)
    low, middle, high = (edges[k : k + MELS, None] for k in range(3))
    return np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))


def sound_of(frames: np.ndarray, rounds: int = 60) -> np.ndarray:
    """float32 [samples], at most 1, of log-mel frames [n, 40]: Griffin & Lim 1984, "Signal estimation from modified STFT".

    Energies are those that no band has less of than the frame says (Lee & Seung 2001); the phase is what fits their
    magnitudes best after so many rounds.
    """
    from scipy.signal import ShortTimeFFT, lfilter
    from scipy.signal.windows import hann

    transform = ShortTimeFFT(hann(WINDOW, sym=False) ** 0.85, HOP // 2, RATE)  # Povey's window, at half the hop
    samples = len(frames) * HOP
    middles = np.arange(transform.p_min, transform.p_max(samples)) / 2 - 0.5  # of slices, in frames
    mels = np.stack([np.interp(middles, np.arange(len(frames)), band) for band in frames.T.astype(np.float64)])
    filters, power = mel_filters(), np.ones((WINDOW // 2 + 1, len(middles)))
    for _ in range(rounds):
        power *= filters.T @ np.exp(mels) / np.maximum(filters.T @ (filters @ power), 1e-8)
    size = np.sqrt(power)
    phase = np.exp(2j * np.pi * np.random.default_rng(0).random(size.shape))
    for _ in range(rounds):
        phase = transform.stft(transform.istft(size * phase, k1=samples))
        phase /= np.maximum(np.abs(phase), 1e-8)
    sound = lfilter([1], [1, -0.97], transform.istft(size * phase, k1=samples))  # undoes Kaldi's pre-emphasis
    return (sound / max(1e-9, np.abs(sound).max())).astype(np.float32)


def main(first: Path, second: Path | None = None) -> None:
    if second is None:
        write(first)
        return
    import soundfile

    soundfile.write(second, sound_of(np.load(first, allow_pickle=False)), RATE)
    print(f"written: {second}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
