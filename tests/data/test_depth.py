"""Pictures of more bits than are used are told of: read at the scale of 16, most of their grays would be lost."""

import numpy as np
import pytest
from PIL import Image

from mmedge.data.checks.pictures import depth_faults


@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (4095, "none of 3 a value above 4,095: at the scale of 65,535 they are dark, and 16 of 256 grays are left"),
        (65535, None),
        (20_000, None),
        (70_000, "holds 70,000, and all above 65,535 is white"),
    ],
)
def test_sixteen_bits_of_which_twelve_are_used_are_told(tmp_path, largest, said):
    files = []
    for row in (1, 2, 3):
        pixels = np.arange(64, dtype=np.int64).reshape(8, 8) * largest // 63
        picture = Image.fromarray(pixels.astype(np.uint16 if largest <= 65535 else np.int32))
        picture.save(tmp_path / f"{row}.tif")
        files.append((row, tmp_path / f"{row}.tif"))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "eight.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files += [(4, tmp_path / "eight.png"), (5, tmp_path / "broken.png"), (6, tmp_path / "none.png")]
    found = depth_faults("scan", files, "m.csv", "path")
    assert [(fault.severity, fault.kind) for fault in found] == ([("warning", "depth")] if said else [])
    assert not said or said in found[0].what
    assert largest != 4095 or "by 15" in found[0].todo
