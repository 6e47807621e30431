"""Every change: a function of seed, view and row alone, of the kinds that have it, and what its name says."""

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError
from sklearn.datasets import load_sample_image

from mmedge import preprocess
from mmedge.data.augment import CHANGES, augmented, resolved
from mmedge.data.augment.chance import Chance
from mmedge.data.augment.sounds import sound_files
from mmedge.data.store.rows import Rows, Shards
from mmedge.errors import MmedgeError
from mmedge.preprocess.centred import band_centres
from mmedge.recipe import Augment
from mmedge.recipe.augment import changes_of, faults_of
from mmedge.spec import ArraySpec, AudioSpec, ImageSpec, SensorSpec, TabularSpec, TextSpec

RNG = np.random.default_rng(0)
COUNT = 40
IMAGE = ImageSpec(kind="image", height=24, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
SOUND = AudioSpec(kind="audio", mels=8, frames=20, mean=(-5.0,), std=(2.0,))
WAVE = AudioSpec(kind="audio", features="waveform", length=4000)
TEXT = TextSpec(kind="text", length=10, tokens=200)
MOTION = SensorSpec(kind="sensor", channels=6, length=30, mean=(0.0,) * 6, std=(1.0,) * 6)
TABLE = TabularSpec(
    kind="tabular",
    columns=("a", "b"),
    missing_indicator=True,
    categorical=("c",),
    categories={"c": ("x", "y")},
    mean=(0.0, 0.0),
    std=(1.0, 1.0),
)
_TOKENS = np.where(np.arange(10) < RNG.integers(3, 11, (COUNT, 1)), RNG.integers(1, 200, (COUNT, 10)), 0)
KEPT = {
    "image": (IMAGE, RNG.integers(0, 256, (COUNT, 3, 24, 32)).astype(np.uint8)),
    "picture": (IMAGE, RNG.integers(0, 256, (COUNT, 3, 24, 32)).astype(np.uint8)),
    "sound": (SOUND, RNG.normal(-5, 2, (COUNT, 1, 8, 20)).astype(np.float32)),
    "wave": (WAVE, RNG.integers(-9000, 9000, (COUNT, 4000)).astype(np.int16)),
    "text": (TEXT, _TOKENS.astype(np.uint8)),
    "motion": (MOTION, np.cumsum(RNG.normal(size=(COUNT, 6, 30)), axis=2).astype(np.float32)),
    "table": (TABLE, RNG.normal(2, 1, (COUNT, 7)).astype(np.float32)),
}
# What is asked of each change, and of which kinds of samples.
ASKED = {
    "image": ["crop", "flip", "rotate", "shear", "zoom", "brightness", "contrast", "saturation", "hue", "grayscale"],
    "picture": ["trivial", "blur", "erase", "shift", "mask", "noise"],
    "sound": ["pitch", "speed", "room", "gain", "snr", "mask_rows", "shift"],
    "wave": ["pitch", "speed", "room", "gain", "snr"],
    "text": ["token_dropout", "swap", "mask"],
    "motion": ["scaling", "rotate_axes", "time_warp", "channel_drop", "noise"],
    "table": ["column_drop", "noise"],
}
VALUES = {"rotate": 20, "shear": 10, "rotate_axes": 90, "blur": 2, "gain": 6, "snr": (0, 10), "grayscale": 0.9}
VALUES |= {"shift": 3, "mask": 3, "mask_rows": 3, "saturation": 0.9, "crop": 0.3, "pitch": 4, "trivial": 0.9}


@pytest.fixture
def kept(tmp_path):
    """{name: the samples on the disk}, the third row of each missing."""
    found = {}
    for name, (spec, values) in KEPT.items():
        shards = Shards(tmp_path / name, values.dtype.name, COUNT, spec.shape)
        np.save(shards.files[0][0], values)
        found[name] = Rows(spec, shards, np.arange(COUNT) != 2)
    return found


def view(rows, augment, index=None, *, view=0, seed=3):
    index = np.arange(COUNT) if index is None else index
    return augmented(rows, index, augment, Chance(seed, view, index, len(rows)))


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in ASKED.items() for key in keys])
def test_a_view_is_a_function_of_seed_view_and_row(kept, name, key):
    rows, augment = kept[name], Augment(**{key: VALUES.get(key, 0.5)})
    assert key in changes_of(rows.spec)
    whole, some = view(rows, augment), np.array([7, 31, 2, 7])
    assert whole.shape == rows.shape and whole.dtype == rows.dtype and np.isfinite(whole).all()
    np.testing.assert_array_equal(view(rows, augment, some), whole[some])
    changed = (whole != rows[:]).reshape(COUNT, -1).any(axis=1)
    assert changed.sum() >= COUNT // 4 and (key in ("noise",) or not changed[2])
    for other in (view(rows, augment, view=1), view(rows, augment, seed=4)):
        assert not np.array_equal(other, whole)
    np.testing.assert_array_equal(rows[:], rows[:])


def test_every_change_of_the_table_is_a_key_and_every_key_has_a_change():
    keys = {key for change in CHANGES for key in change.keys}
    assert keys == set(Augment.model_fields) - {"preset", "masks", "noise_folder", "room_folder"}


def test_a_crop_of_the_whole_and_no_turn_leave_the_pixels(kept):
    rows = kept["image"]
    small = Augment(crop=0.999999, rotate=1e-6)
    assert np.abs(view(rows, small) - rows[:]).mean() < 1.5  # of an aspect of its own, so not the same pixels
    np.testing.assert_allclose(view(rows, Augment(rotate=1e-6)), rows[:], atol=1e-3)
    mirrored = view(rows, Augment(flip=1.0))
    np.testing.assert_array_equal(mirrored, rows[:][..., ::-1])


def test_a_quarter_turn_turns_the_pixels_a_quarter(kept, tmp_path, monkeypatch):
    square = ImageSpec(kind="image", height=8, width=8, channels=1)
    pixels = RNG.integers(0, 256, (1, 1, 8, 8)).astype(np.uint8)
    shards = Shards(tmp_path / "square", "uint8", 1, square.shape)
    np.save(shards.files[0][0], pixels)
    monkeypatch.setattr(Chance, "drawn", lambda self, name, columns: np.full((1, columns), 1.0))
    turned = view(Rows(square, shards, np.ones(1, bool)), Augment(rotate=90.0), np.array([0]))
    quarters = [np.rot90(pixels[0, 0], k).astype(np.float32) / 255 for k in (1, 3)]
    assert min(np.abs(turned[0, 0] - each).max() for each in quarters) < 1e-3


def test_colours_change_as_their_names_say(kept):
    rows = kept["image"]
    plain = rows[:] * 0.25 + 0.5  # back to 0 to 1
    gray = view(rows, Augment(grayscale=1.0)) * 0.25 + 0.5
    expected = np.einsum("c,bchw->bhw", [0.299, 0.587, 0.114], plain)
    there = np.arange(COUNT) != 2
    for channel in range(3):
        np.testing.assert_allclose(gray[there, channel], expected[there], atol=0.0025)  # a pixel is a byte
    bright = view(rows, Augment(brightness=0.5)) * 0.25 + 0.5
    factors = [np.median(bright[row] / np.maximum(plain[row], 1e-3)) for row in np.flatnonzero(there)]
    assert min(factors) < 0.7 and max(factors) > 1.2 and all(0.45 < factor < 1.55 for factor in factors)
    hue = view(rows, Augment(hue=0.5)) * 0.25 + 0.5
    inside = (hue > 1e-3) & (hue < 1 - 1e-3)
    luma = [np.einsum("c,bchw->bhw", [0.299, 0.587, 0.114], x) for x in (hue, plain)]
    np.testing.assert_allclose(luma[0][inside.all(axis=1)], luma[1][inside.all(axis=1)], atol=0.0025)


def test_a_gain_is_the_same_of_a_waveform_and_of_its_log_energies(kept):
    sound, wave = kept["sound"], kept["wave"]
    louder = (view(sound, Augment(gain=6)) - sound[:])[3, 0, 0, 0] * 2  # times the deviation: natural logarithms
    factor = np.median(view(wave, Augment(gain=6))[3] / np.where(wave[3] == 0, 1, wave[3]))
    assert 10 * louder / np.log(10) == pytest.approx(20 * np.log10(factor), abs=1e-3) and abs(louder) < 1.4


@pytest.mark.parametrize("ratio", [0.0, 20.0])
def test_noise_comes_at_the_ratio_that_is_asked(kept, ratio):
    wave = kept["wave"]
    plain, noisy = wave[:], view(wave, Augment(snr=(ratio, ratio)))
    powers = [(x[3:] ** 2).mean(axis=1, dtype=np.float64) for x in (plain, noisy - plain)]
    np.testing.assert_allclose(10 * np.log10(powers[0] / powers[1]), ratio, atol=0.01)


def test_noise_from_a_folder_is_of_its_sounds_and_an_empty_folder_is_a_fault(kept, tmp_path):
    (tmp_path / "noises").mkdir()
    for folder, what in ((tmp_path / "noises", "holds no sounds"), (tmp_path / "no", "does not exist")):
        with pytest.raises(MmedgeError, match=what):
            sound_files(folder, "noise_folder")
    tone = np.sin(np.arange(8000) * 0.3).astype(np.float32) * 0.5
    soundfile.write(tmp_path / "noises" / "tone.wav", tone, 16000)
    wave = kept["wave"]
    added = view(wave, Augment(snr=(0, 0), noise_folder=tmp_path / "noises"))[5] - wave[5]
    peak = np.abs(np.fft.rfft(added)).argmax() / 4000
    assert peak == pytest.approx(0.3 / (2 * np.pi), abs=1e-3)


def test_a_text_keeps_its_first_and_last_token_and_its_others_order(kept):
    rows = kept["text"]
    plain, short, swapped = rows[:], view(rows, Augment(token_dropout=0.5)), view(rows, Augment(swap=0.5))
    for before, fewer, moved in zip(plain, short, swapped):
        tokens, left = before[before > 0].tolist(), fewer[fewer > 0].tolist()
        assert sorted(moved) == sorted(before) and not fewer[len(left) :].any()
        if tokens:
            assert (left[0], left[-1]) == (tokens[0], tokens[-1]) == (moved[0], moved[len(tokens) - 1])
            place = iter(tokens)
            assert all(token in place for token in left)
    assert short.astype(bool).sum() < plain.astype(bool).sum()


def test_axes_are_turned_in_space_all_threes_alike(kept):
    rows = kept["motion"]
    plain, turned = (x[3].reshape(2, 3, 30) for x in (rows[:], view(rows, Augment(rotate_axes=180))))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(plain, axis=1), rtol=1e-4, atol=1e-4)
    turn = np.linalg.lstsq(plain[0].T, turned[0].T, rcond=None)[0]
    np.testing.assert_allclose(plain[1].T @ turn, turned[1].T, atol=1e-3)


def test_a_warp_keeps_start_end_and_the_order_of_what_happens(kept, tmp_path):
    spec = MOTION.model_copy(update={"channels": 1, "mean": (0.0,), "std": (1.0,)})
    shards = Shards(tmp_path / "ramp", "float32", 4, spec.shape)
    np.save(shards.files[0][0], np.tile(np.arange(30, dtype=np.float32), (4, 1, 1)))
    warped = view(Rows(spec, shards, np.ones(4, bool)), Augment(time_warp=0.5), np.arange(4))[:, 0]
    assert (np.diff(warped, axis=1) > 0).all() and not np.allclose(warped, np.arange(30), atol=0.5)
    np.testing.assert_allclose(warped[:, [0, -1]], [[0, 29]] * 4, atol=1e-3)


def test_what_is_dropped_is_whole_channels_and_columns_and_never_all(kept):
    motion = view(kept["motion"], Augment(channel_drop=0.9))[3:]
    blank = (motion == 0).all(axis=2)
    assert blank.any() and not blank.all(axis=1).any()
    np.testing.assert_array_equal(motion[~blank], kept["motion"][3:][~blank])
    table = view(kept["table"], Augment(column_drop=0.9))[3:]
    parts = np.stack([(table[:, places] == 0).all(axis=1) for places in ([0, 2], [1, 3], [4, 5, 6])], axis=1)
    np.testing.assert_array_equal((table == 0).sum(axis=1), parts @ [2, 2, 3])
    assert parts.any() and not parts.all(axis=1).any()


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_presets_are_of_their_kind_do_not_mirror_and_are_overridden_by_what_stands_beside_them(preset):
    for spec in (IMAGE, SOUND, WAVE, TEXT, MOTION, TABLE, ArraySpec(kind="array", shape=(3,))):
        changes = Augment.model_validate(preset).of(spec)
        assert changes.asked and changes.flip == 0 and not faults_of({"x": changes}, {"x": spec})
    assert Augment(preset=preset, flip=0.5).of(IMAGE).flip == 0.5
    assert resolved({"x": Augment(preset=preset, crop=1.0)}, {"x": IMAGE})["x"].crop == 1.0


def test_a_change_that_a_kind_does_not_have_is_told_with_what_it_has():
    (fault,) = faults_of({"clip": Augment(blur=1)}, {"clip": SOUND})
    assert fault.startswith("clip: of a sound of these features there is no 'blur'") and "gain, snr" in fault
    gray = IMAGE.model_copy(update={"channels": 1})
    assert "no 'hue'" in faults_of({"photo": Augment(hue=0.1)}, {"photo": gray})[0]
    mfcc = AudioSpec(kind="audio", features="mfcc")
    assert "no 'gain'" in faults_of({"clip": Augment(gain=1)}, {"clip": mfcc})[0]
    assert "did you mean 'masks'" in faults_of({"words": Augment(mask_rows=1)}, {"words": TEXT})[0]


@pytest.mark.parametrize("given", [{"snr": (20, 5)}, {"noise_folder": "x"}, "stark", {"crop": 0}])
def test_values_that_mean_nothing_are_refused(given):
    with pytest.raises(ValidationError):
        Augment.model_validate(given)


def tone_of(tmp_path, spec, hertz=500.0):
    """Samples of a tone of 0.4 s, as the spec has them."""
    seconds = np.arange(spec.samples) / spec.sample_rate
    sound = np.where(seconds < 0.4, 0.3 * np.sin(2 * np.pi * hertz * seconds), 0).astype(np.float32)
    kept = np.tile(preprocess.raw_features(spec, sound), (6, *(1,) * len(spec.shape)))
    shards = Shards(tmp_path / f"tone-{spec.features}", "float32", 6, spec.shape)
    np.save(shards.files[0][0], kept)
    return Rows(spec, shards, np.ones(6, bool))


def highest(found, spec):
    """The frequency that each row is loudest at."""
    if spec.features == "waveform":
        return np.abs(np.fft.rfft(found[:, :4096])).argmax(axis=1) * spec.sample_rate / 4096
    return band_centres(spec)[found[:, 0, :, 5:25].mean(axis=2).argmax(axis=1)]


@pytest.mark.parametrize(
    "spec", [WAVE.model_copy(update={"length": 12000}), AudioSpec(kind="audio", mels=80, frames=75)]
)
def test_pitch_keeps_time_and_speed_does_not(tmp_path, spec, monkeypatch):
    rows, draws = tone_of(tmp_path, spec), np.array([0.0, 0.25, 0.5, 0.75, 1.0, 0.5])
    monkeypatch.setattr(Chance, "drawn", lambda self, name, columns: np.tile(draws[self.index, None], columns))
    waveform = spec.features == "waveform"
    for augment, factors in ((Augment(pitch=6), 2 ** ((2 * draws - 1) / 2)), (Augment(speed=0.3), 1 + 0.3 * (2 * draws - 1))):  # fmt: skip
        found = view(rows, augment, np.arange(6))
        np.testing.assert_allclose(highest(found, spec), 500 * factors, rtol=0.06)
        loud = np.abs(found) > 0.05 if waveform else found[:, 0].max(axis=1) > found.max() - 4
        ends = np.array([np.flatnonzero(row)[-1] for row in loud]) * (1 if waveform else spec.hop) / spec.sample_rate
        np.testing.assert_allclose(ends, 0.4 / (factors if augment.speed else 1), atol=0.04)
        same = found[2] - rows[2]
        assert np.abs(same[..., 600:5000] if waveform else same).max() < 0.03


def test_a_room_is_heard_behind_a_sound_and_as_loud_from_a_folder_too(tmp_path):
    folder = tmp_path / "rooms"
    folder.mkdir()
    echo = np.zeros(4000, np.float32)
    echo[[7, 1607]] = 0.8, 0.4  # what comes before the sound itself is cut off
    soundfile.write(folder / "echo.wav", echo, 16000, subtype="FLOAT")
    click = np.zeros((2, 4000), np.float32)
    click[:, 100] = 0.5
    shards = Shards(tmp_path / "click", "float32", 2, (4000,))
    np.save(shards.files[0][0], click)
    rows = Rows(WAVE, shards, np.ones(2, bool))
    heard = view(rows, Augment(room=1.0, room_folder=folder), np.arange(2))
    np.testing.assert_allclose(np.flatnonzero(np.abs(heard[0]) > 1e-3), [100, 1700])
    assert heard[0, 100] == pytest.approx(2 * heard[0, 1700], rel=1e-3)
    simulated = view(rows, Augment(room=1.0), np.arange(2))
    for found in (heard, simulated):
        np.testing.assert_allclose((found**2).sum(axis=1), 0.25, rtol=1e-3)
    assert np.abs(simulated[:, :100]).max() < 1e-4 and simulated[0].argmax() == 100
    late = (simulated[:, 2500:] ** 2).sum() / (simulated**2).sum()
    assert 1e-5 < late < 0.2 and not np.array_equal(*simulated)
    with pytest.raises(
        MmedgeError, match=r"impulse responses does not exist\n.*\n.*'room_folder' out for simulated rooms"
    ):
        sound_files(tmp_path / "no", "room_folder")


def test_each_of_trivial_augments_changes_is_made_and_none_leaves_a_byte(tmp_path, monkeypatch):
    pixels = np.tile(load_sample_image("china.jpg")[:48, :64].transpose(2, 0, 1), (28, 1, 1, 1))
    for channels in (1, 3):
        spec = ImageSpec(kind="image", height=48, width=64, channels=channels)
        shards = Shards(tmp_path / str(channels), "uint8", 28, spec.shape)
        np.save(shards.files[0][0], pixels[:, :channels])
        draws = np.stack([np.zeros(28), np.arange(28) // 2 / 14 + 1e-9, np.full(28, 0.5), np.arange(28) % 2], axis=1)
        monkeypatch.setattr(Chance, "drawn", lambda self, name, columns, draws=draws: draws[self.index])
        found = view(Rows(spec, shards, np.ones(28, bool)), Augment(trivial=1.0), np.arange(28))
        assert found.min() >= 0 and found.max() <= 1
        assert len({row.tobytes() for row in found}) >= 19  # two signs each of eight or nine, and one of the others
