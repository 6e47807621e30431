"""What a file of a picture holds and a network is not shown is told of: unused bits, and further pages."""

import numpy as np
import pytest
from PIL import Image

from mmedge.data.checks.pictures import picture_faults


@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (4095, "none of 3 a value above 4,095: at the scale of 65,535 they are dark, and 16 of 256 grays are left"),
        (65535, None),
        (20_000, None),
    ],
)
def test_sixteen_bits_of_which_twelve_are_used_are_told(tmp_path, largest, said):
    files = []
    for row in (1, 2, 3):
        pixels = (np.arange(64).reshape(8, 8) * largest // 63).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        files.append((row, tmp_path / f"{row}.png"))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "eight.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files += [(4, tmp_path / "eight.png"), (5, tmp_path / "broken.png"), (6, tmp_path / "none.png")]
    found = picture_faults("scan", files, "m.csv", "path")
    assert [(fault.severity, fault.kind) for fault in found] == ([("warning", "depth")] if said else [])
    assert not said or (said in found[0].what and "by 15" in found[0].todo)


@pytest.mark.parametrize("ending", ["tif", "gif", "png"])
def test_a_picture_of_several_pages_is_told(tmp_path, ending):
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (9, 99, 200)]
    pages[0].save(tmp_path / f"all.{ending}", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / f"one.{ending}")
    (found,) = picture_faults("scan", [(1, tmp_path / f"one.{ending}"), (2, tmp_path / f"all.{ending}")], "m.csv", "p")
    assert (found.severity, found.kind, found.row) == ("warning", "pages", 2) and "1 of 2 pictures" in found.what
