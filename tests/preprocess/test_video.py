"""Videos: evenly spread frames of files, folders and arrays, preprocessed as images; what is no video told."""

import io
import weakref

import numpy as np
import pytest
from PIL import Image

from mmedge import preprocess
from mmedge.errors import MissingDependency, MmedgeError
from mmedge.preprocess import video
from mmedge.spec import VideoSpec

SPEC = VideoSpec(kind="video", frames=4, height=8, width=8)


def clip(count=20, size=16, codec="mpeg4", form="mp4"):
    """Bytes of a video whose frame k is of gray 10 k."""
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format=form) as container:
        track = container.add_stream(codec, rate=10)
        track.width = track.height = size
        track.pix_fmt = "yuv420p"
        frames = [
            av.VideoFrame.from_ndarray(np.full((size, size, 3), 10 * k, np.uint8), format="rgb24") for k in range(count)
        ]
        for frame in [*frames, None]:
            container.mux(track.encode(frame))
    return stream.getvalue()


def grays(spec, value):
    return preprocess.tensor(spec, value).mean(axis=(1, 2, 3)) * 25.5


def test_frames_lie_in_the_middle_of_equal_parts():
    assert video.places(20, 4) == [2, 7, 12, 17] and video.places(2, 4) == [0, 0, 1, 1] and video.places(7, 1) == [3]


@pytest.mark.parametrize(("codec", "form"), [("mpeg4", "mp4"), ("libvpx", "webm"), ("mpeg4", "avi")])
def test_files_folders_and_arrays_give_the_same_frames(codec, form, tmp_path):
    data = clip(codec=codec, form=form)
    (tmp_path / "clip").write_bytes(data)
    frames = tmp_path / "frames"
    frames.mkdir()
    for k in range(20):  # the order of numbers, not of letters
        Image.new("RGB", (16, 16), (10 * k,) * 3).save(frames / f"{k}.png")
    array = np.stack([np.full((16, 16, 3), 10 * k, np.uint8) for k in range(20)])
    for value in (data, tmp_path / "clip", frames, array, array[..., 0]):
        assert grays(SPEC, value) == pytest.approx([2, 7, 12, 17], abs=0.3)


def test_a_frame_is_preprocessed_as_an_image_is():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    spec = VideoSpec(kind="video", frames=3, height=8, width=6, crop="center", mean=(0.5,) * 3, std=(0.2,) * 3)
    found = preprocess.tensor(spec, pixels)
    assert np.array_equal(found, np.stack([preprocess.tensor(spec.frame, each) for each in pixels]))


def test_statistics_are_of_each_channel_over_all_frames():
    raw = preprocess.raw_features(SPEC, np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))
    fitted = preprocess.fit_statistics(SPEC, [raw])
    assert fitted.mean == pytest.approx(raw.mean(axis=(0, 2, 3)), abs=1e-5)


def test_a_frame_is_resized_when_it_is_decoded_and_no_whole_one_is_held(monkeypatch):
    held, most = [], []

    def upright(frame):
        most.append(sum(reference() is not None for reference in held))
        pixels = frame.to_ndarray(format="rgb24").copy()
        held.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(video, "_upright", upright)
    assert grays(SPEC, clip()) == pytest.approx([2, 7, 12, 17], abs=0.3)
    assert len(most) == 4 and max(most) == 0


def test_frames_that_an_edit_list_leaves_out_are_not_counted(tmp_path):
    """As a phone cuts a clip: the packets stay, the first eight are not shown."""
    av = pytest.importorskip("av")
    data, cut = io.BytesIO(clip()), io.BytesIO()
    with av.open(data) as source, av.open(cut, "w", format="mp4") as container:
        track = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                shift = int(0.8 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, track
                container.mux(packet)
    with av.open(io.BytesIO(cut.getvalue())) as container:
        shown = len(list(container.decode(video=0)))
    assert shown == 12
    assert grays(SPEC, cut.getvalue()) == pytest.approx([8 + place for place in video.places(12, 4)], abs=0.3)


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    playlist = f"#EXTM3U\n#EXTINF:10,\n{tmp_path}/clip.mp4\n#EXT-X-ENDLIST\n".encode()
    (tmp_path / "clip.mp4").write_bytes(clip(5))
    for value, said in [
        (b"", "not a video"),
        (b"nothing of the kind", "not a video"),
        (playlist, "not a video"),  # nor what it names
        (clip()[:700], "not a video|holds no"),
        (tmp_path / "none.mp4", "does not exist"),
        (tmp_path / "empty", "folder without images"),
        (np.zeros((0, 4, 4), np.uint8), "must be"),
        (np.zeros((3, 4, 4)), "uint8"),
    ]:
        with pytest.raises(MmedgeError, match=said) as raised:
            preprocess.tensor(SPEC, value)
        assert len(str(raised.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("MOST_SECONDS", 1, "lasts 2 s"),
        ("MOST_FRAMES", 19, "more than 19"),
        ("image.MAX_PIXELS", 100, "16 x 16 pixels"),
    ],
)
def test_what_is_too_long_or_large_is_refused_before_a_frame_is_decoded(limit, most, said, monkeypatch):
    monkeypatch.setattr(f"mmedge.preprocess.video.{limit}", most)
    monkeypatch.setattr(video, "_frames", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(MmedgeError, match=said):
        preprocess.tensor(SPEC, clip())


def test_without_pyav_the_extra_is_named_and_folders_are_read(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingDependency, match=r"mmedge\[video\]"):
        preprocess.tensor(SPEC, b"any")
    Image.new("RGB", (8, 8), (100, 100, 100)).save(tmp_path / "1.png")
    assert grays(SPEC, tmp_path) == pytest.approx([10] * 4)
