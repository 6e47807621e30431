"""Preprocessing of texts, tables, series, and of the odder images and sounds: known values, and errors that say what."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from pydantic import ValidationError

from mmedge import preprocess
from mmedge.errors import MmedgeError
from mmedge.spec import AudioSpec, ImageSpec, SensorSpec, TabularSpec, TextSpec

RNG = np.random.default_rng(0)
TEXTS = ["a red heart", "a black heart", "the smiling face", "红色的心", "微笑的脸", "the red face", "黑色的心"] * 4
COLOUR = ImageSpec(kind="image", height=4, width=4)


def file_of(picture, format="PNG", **more):
    stream = io.BytesIO()
    picture.save(stream, format, **more)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_trained_tokenizer_travels_in_the_spec_and_knows_chinese(kind):
    fitted = preprocess.fit_vocabulary(TextSpec(kind="text", tokenizer=kind, vocabulary=400, length=10), TEXTS)
    stored = TextSpec.model_validate_json(fitted.model_dump_json())
    ids = preprocess.tensor(stored, "红色的脸")
    assert ids.dtype == np.int64 and ids.shape == (10,) and ids.max() < stored.tokens and stored.pad == 0
    assert len(set(ids[ids != 0])) > 2 and 1 not in ids  # no unknown token among seen characters
    np.testing.assert_array_equal(ids, preprocess.tensor(fitted, "红色的脸"))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_same_texts_give_the_same_tokenizer_every_time_and_in_any_order(kind):
    """The trainers go through hash tables of an order of their own in every process, and at every call."""
    spec = TextSpec(kind="text", tokenizer=kind, vocabulary=400)
    fitted = {preprocess.fit_vocabulary(spec, texts).fitted for texts in (TEXTS, list(reversed(TEXTS))) * 6}
    assert len(fitted) == 1


def test_bytes_know_every_script_and_normalization_joins_what_looks_alike():
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", vocabulary=400, length=32), TEXTS)
    assert 1 not in preprocess.tensor(spec, "🙂 ᚠᛇ हिन्दी")
    np.testing.assert_array_equal(preprocess.tensor(spec, "ＲＥＤ ﬁre"), preprocess.tensor(spec, "red fire"))
    cased = preprocess.fit_vocabulary(TextSpec(kind="text", vocabulary=400, lowercase=False), TEXTS)
    assert (preprocess.tensor(cased, "RED") != preprocess.tensor(cased, "red")).any()


def test_a_text_is_cut_at_its_length_and_padded_after_it():
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", vocabulary=400, length=4), TEXTS)
    short, long = preprocess.tensor(spec, "red"), preprocess.tensor(spec, "a red heart a red heart")
    assert (short != 0).any() and short[-1] == 0 and (long != 0).all()


def test_a_tokenizer_file_is_taken_with_its_own_padding(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"red": 0, "[UNK]": 1, "<pad>": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "t.json"))
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", length=4, tokenizer_file=tmp_path / "t.json"), [])
    assert preprocess.tensor(spec, "red blue").tolist() == [0, 1, 2, 2] and (spec.pad, spec.tokens) == (2, 3)


@pytest.mark.parametrize("value, said", [(5, "must be a text"), ("   ", "has no token"), (None, "must be a text")])
def test_what_is_no_text_is_an_error(value, said):
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", vocabulary=400), TEXTS)
    with pytest.raises(MmedgeError, match=said):
        preprocess.tensor(spec, value, "words")


def test_a_broken_tokenizer_file_is_an_error_with_its_path(tmp_path):
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(MmedgeError, match=r"tokenizer.*\n.*t\.json"):
        preprocess.fit_vocabulary(TextSpec(kind="text", tokenizer_file=tmp_path / "t.json"), [])


GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [GROWS] * 33}}, "8.59e.09 times as long"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 100}}, "times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "the tokenizer fails"),  # a panic
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAP8="}}, "the tokenizer fails"),
        ({"model": {"type": "Unigram", "unk_id": None, "vocab": []}}, "the tokenizer fails"),
        ({"model": None}, "the tokenizer fails"),
    ],
)
def test_a_bad_tokenizer_in_a_spec_is_an_error_that_takes_neither_the_process_nor_its_memory(tmp_path, change, said):
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", vocabulary=400), TEXTS)
    bad = json.dumps({**json.loads(spec.fitted), **change})
    with pytest.raises(MmedgeError, match=said):
        preprocess.tensor(spec.model_copy(update={"fitted": bad}), "a banana", "words")
    (tmp_path / "t.json").write_text(bad)
    with pytest.raises(MmedgeError):
        taken = preprocess.fit_vocabulary(TextSpec(kind="text", tokenizer_file=tmp_path / "t.json"), [])
        preprocess.tensor(taken, "a banana", "words")


def test_padding_that_a_tokenizer_brings_is_not_done_to_its_length():
    spec = preprocess.fit_vocabulary(TextSpec(kind="text", vocabulary=400, length=8), TEXTS)
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    brought = json.dumps({**json.loads(spec.fitted), "padding": {**padding, "pad_type_id": 0, "pad_token": "x"}})
    ids = preprocess.tensor(spec.model_copy(update={"fitted": brought}), "a red heart", "words")
    np.testing.assert_array_equal(ids, preprocess.tensor(spec, "a red heart", "words"))


def fitted_table(**keys):
    rows = [["1", "4", "x"], ["2", None, "y"], ["3", "6", "x"], [None, "8", None]]
    spec = TabularSpec(kind="tabular", columns=("a", "b"), categorical=("c",), **keys)
    spec = preprocess.fit_vocabulary(spec, rows)
    return preprocess.fit_statistics(spec, (preprocess.raw_features(spec, row) for row in rows))


def test_statistics_of_a_table_are_of_the_cells_that_are_there():
    spec = fitted_table()
    assert spec.mean == pytest.approx((2, 6)) and spec.std == pytest.approx((np.sqrt(2 / 3), np.sqrt(8 / 3)))
    x = preprocess.tensor(spec, {"a": 2, "b": None, "c": "y"})
    assert x.tolist() == [0, 0, 0, 0, 1] and x.dtype == np.float32  # number, number, unknown, x, y


def test_unknown_and_missing_categories_are_told_apart_in_onehot_and_alike_in_ordinal():
    onehot, ordinal = fitted_table(), fitted_table(encoding="ordinal")
    assert preprocess.tensor(onehot, [2, 6, "new"]).tolist() == [0, 0, 1, 0, 0]
    assert preprocess.tensor(onehot, [2, 6, None]).tolist() == [0, 0, 0, 0, 0]
    assert [preprocess.tensor(ordinal, [2, 6, c])[2] for c in ("x", "y", "new", None)] == [0.5, 1, 0, 0]


@pytest.mark.parametrize(
    ("known", "cells"),
    [
        (("1", "2"), (1, 1.0, "1", np.int64(1), np.float32(1))),
        (("1.0", "2.0"), (1, 1.0, "1.0", np.float64(1))),
        (("1", "1.0"), (1, "1", np.int8(1))),
        (("true", "x"), (True, "true", np.bool_(True))),
        (("True", "x"), (True, "True")),
    ],
)
def test_a_number_or_a_truth_value_is_its_category_however_it_is_spelled(known, cells):
    spec = fitted_table().model_copy(update={"categories": {"c": known}})
    assert all(preprocess.tensor(spec, [2, 6, cell]).tolist() == [0, 0, 0, 1, 0] for cell in cells)
    for unknown in (1.5, 3.0, False, "one", float("inf"), -1):
        assert preprocess.tensor(spec, [2, 6, unknown]).tolist() == [0, 0, 1, 0, 0]


def test_nan_is_a_missing_category():
    assert preprocess.tensor(fitted_table(), [2, 6, float("nan")]).tolist() == [0, 0, 0, 0, 0]
    rows = [[1, 2, "x"], [1, 2, float("nan")], [1, 2, np.float32("nan")]]
    assert preprocess.fit_vocabulary(fitted_table().model_copy(update={"categories": None}), rows).categories == {
        "c": ("x",)
    }


def test_a_missing_indicator_sets_a_flag_of_its_own():
    spec = fitted_table(missing_indicator=True)
    assert preprocess.tensor(spec, [None, 6, "x"])[:4].tolist() == [0, 0, 1, 0] and spec.shape == (7,)


@pytest.mark.parametrize(
    "value, said",
    [
        ([None, None, None], "no value at all"),
        (["one", 2, "x"], "must be numbers: a is 'one'"),
        ([float("nan"), 2, "x"], "NaN"),
        (["inf", 2, "x"], "infinite"),
        ([1, 2], r"shape \[2\]"),
        ({"a": 1, "b": 2}, "no value for c"),
        ({"a": 1, "b": 2, "c": "x", "bb": 1}, "no column 'bb' .did you mean 'b'"),
        ("1,2,x", "must be numbers"),
    ],
)
def test_a_wrong_row_is_an_error(value, said):
    with pytest.raises(MmedgeError, match=said):
        preprocess.tensor(fitted_table(), value, "facts")


def test_a_series_is_cut_where_the_spec_says_and_holds_its_last_value():
    series = np.arange(20, dtype=np.float32).reshape(2, 10)
    for take, first in (("start", 0), ("center", 3), ("end", 6)):
        spec = SensorSpec(kind="sensor", channels=2, length=4, take=take)
        assert preprocess.tensor(spec, series)[0].tolist() == list(range(first, first + 4))
    assert preprocess.tensor(SensorSpec(kind="sensor", channels=2, length=12), series)[1, -3:].tolist() == [19, 19, 19]


def test_a_series_is_resampled_to_the_specs_rate():
    time = np.arange(200) / 100
    spec = SensorSpec(kind="sensor", channels=1, length=100, rate=50, source_rate=100)
    x = preprocess.tensor(spec, np.sin(2 * np.pi * 3 * time)[None].astype(np.float32))
    np.testing.assert_allclose(x[0, 10:90], np.sin(2 * np.pi * 3 * np.arange(10, 90) / 50), atol=0.02)
    np.testing.assert_array_equal(
        x, preprocess.tensor(spec, (np.sin(2 * np.pi * 3 * time)[None].astype(np.float32), 100))
    )


def test_a_series_in_a_csv_is_the_same_as_in_an_array_whatever_its_columns_order(tmp_path):
    series = RNG.standard_normal((2, 30)).astype(np.float32)
    rows = "\n".join(f"{b!r},{a!r}" for a, b in series.T.tolist())
    (tmp_path / "s.csv").write_text("y,x\n" + rows, encoding="utf-8")
    spec = SensorSpec(kind="sensor", channels=2, length=20, channel_columns=("x", "y"))
    np.testing.assert_array_equal(preprocess.tensor(spec, tmp_path / "s.csv"), preprocess.tensor(spec, series))


def test_irregular_times_are_interpolated_onto_the_grid(tmp_path):
    times = np.array([0, 0.1, 0.35, 0.4, 0.8, 1.0])
    (tmp_path / "s.csv").write_text("time,v\n" + "\n".join(f"{t},{2 * t}" for t in times))
    spec = SensorSpec(kind="sensor", channels=1, length=11, rate=10, time_column="time")
    np.testing.assert_allclose(preprocess.tensor(spec, tmp_path / "s.csv")[0], 0.2 * np.arange(11), atol=1e-6)


@pytest.mark.parametrize(
    "text, said",
    [
        ("time,v\n0,1\n0,2", "times do not rise"),
        ("time,v\n0,1\n1,x", "no number"),
        ("time,v\n0,1\n1,nan", "NaN"),
        ("time,w\n0,1\n1,2", "no column 'v'"),
        ("time,v\n", "no rows"),
        ("", "no column"),
    ],
)
def test_a_broken_series_file_is_an_error_with_its_path(tmp_path, text, said):
    (tmp_path / "s.csv").write_text(text)
    spec = SensorSpec(kind="sensor", channels=1, length=4, rate=1, time_column="time", channel_columns=("v",))
    with pytest.raises(MmedgeError, match=said) as raised:
        preprocess.tensor(spec, tmp_path / "s.csv", "motion")
    assert "s.csv" in str(raised.value)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 1e-9, 1e30, "fast", None])
def test_a_rate_that_no_series_has_is_an_error_and_not_an_endless_resampling(rate):
    spec = SensorSpec(kind="sensor", channels=2, length=4, rate=50, source_rate=100)
    with pytest.raises(MmedgeError, match="rate"):
        preprocess.tensor(spec, (np.zeros((2, 9)), rate), "motion")


def test_times_that_would_fill_the_memory_are_an_error(tmp_path):
    (tmp_path / "s.csv").write_text("time,v\n0,1\n1e12,2\n")
    spec = SensorSpec(kind="sensor", channels=1, length=4, rate=50, time_column="time")
    with pytest.raises(MmedgeError, match="5e\\+13 steps"):
        preprocess.tensor(spec, tmp_path / "s.csv", "motion")


@pytest.mark.parametrize("value", [np.zeros((3, 9)), np.zeros(9), np.zeros((2, 0)), [["a"]], np.full((2, 9), np.inf)])
def test_a_wrong_series_is_an_error(value):
    with pytest.raises(MmedgeError, match="motion"):
        preprocess.tensor(SensorSpec(kind="sensor", channels=2, length=4), value, "motion")


def test_cmyk_alpha_and_palette_pictures_become_their_colours():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for data in (file_of(red.convert("CMYK"), "TIFF"), file_of(red.convert("P")), file_of(red.convert("RGBA"))):
        np.testing.assert_allclose(preprocess.tensor(COLOUR, data)[:, 0, 0], [1, 0, 0], atol=0.01)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_white_whatever_lies_under_them(mode):
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0)).convert(mode)
    assert preprocess.tensor(COLOUR, file_of(clear)).min() == 1


def test_floating_point_pixels_are_an_error():
    with pytest.raises(MmedgeError, match="floating-point"):
        preprocess.tensor(COLOUR, file_of(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_a_center_crop_keeps_the_aspect():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 255
    spec = COLOUR.model_copy(update={"crop": "center"})
    assert preprocess.tensor(spec, pixels).min() == 1 and preprocess.tensor(COLOUR, pixels).min() < 1


def test_a_share_of_the_middle_is_seen_of_whatever_the_crop_leaves():
    pixels = RNG.integers(0, 256, (40, 80, 3), np.uint8)
    for crop, left in (("none", 10), ("center", 25)):
        spec = ImageSpec(kind="image", height=30, width=30, crop=crop, crop_share=0.75)
        part = np.ascontiguousarray(pixels[5:35, left : 80 - left])
        np.testing.assert_array_equal(
            preprocess.tensor(spec, pixels), preprocess.tensor(spec.model_copy(update={"crop_share": 1.0}), part)
        )
    tiny = ImageSpec(kind="image", height=2, width=2, crop_share=0.01)
    assert preprocess.tensor(tiny, pixels[:3, :3]).shape == (3, 2, 2)


def test_a_box_cuts_its_region_out():
    pixels = RNG.integers(0, 256, (10, 20, 3), np.uint8)
    spec = ImageSpec(kind="image", column="p", box=("l", "t", "r", "b"), height=4, width=5)
    np.testing.assert_array_equal(
        preprocess.tensor(spec, (pixels, ("3", "2", "8", "6"))),
        preprocess.tensor(spec, np.ascontiguousarray(pixels[2:6, 3:8])),
    )
    for box in ((3, 2, 3, 6), (-1, 0, 4, 4), (0, 0, 21, 4), (0, None, 4, 4), ("x", 0, 4, 4)):
        with pytest.raises(MmedgeError, match="box"):
            preprocess.tensor(spec, (pixels, box))


def stereo(left, right):
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([left, right], axis=1), 8000, format="WAV", subtype="FLOAT")
    return stream.getvalue()


def test_channels_are_mixed_or_one_is_chosen():
    left, right = (RNG.standard_normal((2, 4000)) / 8).astype(np.float32)
    spec = AudioSpec(kind="audio", sample_rate=8000, mels=16, frames=24)
    mixed, second = preprocess.tensor(spec, stereo(left, right)), spec.model_copy(update={"channel": 1})
    np.testing.assert_allclose(mixed, preprocess.tensor(spec, (left + right) / 2), atol=1e-4)
    np.testing.assert_array_equal(preprocess.tensor(second, stereo(left, right)), preprocess.tensor(second, right))
    with pytest.raises(MmedgeError, match="channel 2"):
        preprocess.tensor(spec.model_copy(update={"channel": 2}), stereo(left, right))


def test_mfcc_is_the_cosine_transform_of_the_log_mel_energies():
    from scipy.fft import dct

    wave = (RNG.standard_normal(8000) / 8).astype(np.float32)
    keys = {"sample_rate": 8000, "mels": 20, "frames": 48, "hop_ms": 16, "window_ms": 32}
    mel = preprocess.tensor(AudioSpec(kind="audio", **keys), wave)[0]
    found = preprocess.tensor(AudioSpec(kind="audio", features="mfcc", coefficients=12, **keys), wave)
    lifter = 1 + 11 * np.sin(np.pi * np.arange(12) / 22)
    assert found.shape == (1, 12, 48)
    np.testing.assert_allclose(found[0], (dct(mel, axis=0, norm="ortho")[:12].T * lifter).T, atol=2e-2)


def test_the_end_of_a_long_sound_can_be_kept():
    spec = AudioSpec(kind="audio", sample_rate=8000, mels=16, frames=20, take="end")
    wave = RNG.standard_normal(9000).astype(np.float32)
    np.testing.assert_array_equal(preprocess.tensor(spec, wave), preprocess.tensor(spec, wave[-spec.samples :]))


@pytest.mark.parametrize(
    "spec, keys",
    [
        (TabularSpec, {"kind": "tabular"}),
        (TabularSpec, {"kind": "tabular", "columns": ["a"], "categorical": ["a"]}),
        (TabularSpec, {"kind": "tabular", "categorical": ["a"], "categories": {"b": ["x"]}}),
        (AudioSpec, {"kind": "audio", "features": "mfcc", "mels": 10, "coefficients": 11}),
        (SensorSpec, {"kind": "sensor", "channels": 1, "length": 4, "rate": 10}),
        (SensorSpec, {"kind": "sensor", "channels": 2, "length": 4, "channel_columns": ["a"]}),
        (ImageSpec, {"kind": "image", "box": ["a", "b", "c", "d"]}),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(spec, keys):
    with pytest.raises(ValidationError):
        spec.model_validate(keys)


def test_a_series_that_holds_time_first_is_the_same_series(tmp_path):
    series = np.arange(12, dtype=np.float32).reshape(2, 6)
    usual = SensorSpec(kind="sensor", channels=2, length=6)
    turned = usual.model_copy(update={"time_first": True})
    np.save(tmp_path / "s.npy", series.T)
    for value in (series.T, str(tmp_path / "s.npy"), (series.T, 50.0)):
        assert np.array_equal(preprocess.tensor(turned, value), preprocess.tensor(usual, series))
    for spec, wrong, wanted in (
        (usual, series.T, r"\[6, 2\], .*\[2, time\]"),
        (turned, series, r"\[2, 6\], .*\[time, 2\]"),
    ):
        with pytest.raises(MmedgeError, match=wanted + r"(?s:.*)time_first"):
            preprocess.tensor(spec, wrong, "motion")


def test_many_rows_of_numbers_are_what_each_of_them_is_and_odd_ones_are_left_to_be_looked_at():
    spec = TabularSpec(kind="tabular", columns=("a", "b"))
    rows = [("1.5", None), (" 2e3 ", "-0.1"), (None, "16777217"), ("1e-46", "3")]
    expected = np.stack([preprocess.raw_features(spec, list(row)) for row in rows])
    found = preprocess.many_features(spec, rows)
    np.testing.assert_array_equal(found.view("u4"), expected.view("u4"))
    for odd in [
        ("x", "1"),
        ("", "1"),
        (None, None),
        ("1_0", "1"),
        ("nan", "1"),
        ("1e39", "1"),
        ("٣", "1"),
        ("1",),
        (1, 2),
    ]:
        assert preprocess.many_features(spec, [*rows, odd]) is None
    assert (
        preprocess.many_features(TabularSpec(kind="tabular", columns=("a",), categorical=("b",)), [("1", "2")]) is None
    )
    assert preprocess.many_features(COLOUR, [b""]) is None
