"""In which form a teacher's outputs are kept: as they are, in half, or the likeliest classes and what the others come to."""

import numpy as np
import pytest
import torch

from mmedge.training.teaching.kept import Form, joined, restored
from mmedge.training.teaching.sources import Inference
from tests.training.teaching import test_teachers as teachers

RNG = np.random.default_rng(0)
LOGITS = (4 * RNG.normal(size=(50, 300))).astype(np.float32)


def test_as_it_is_nothing_is_lost():
    for x in (LOGITS, np.ones(50, bool), RNG.normal(size=(50, 3, 4)).astype(np.float32)):
        np.testing.assert_array_equal(restored(Form().packed(x, "logits")), x)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_likeliest_classes_are_kept_and_the_others_share_what_is_left(tmp_path, dtype):
    kept = Form(dtype, 20, frozenset({"logits"})).packed(LOGITS, "logits")
    np.save(tmp_path / "kept.npy", kept)
    found = restored(np.load(tmp_path / "kept.npy", mmap_mode="r")[:])
    assert kept.nbytes < LOGITS.nbytes * (0.11 if dtype == "float16" else 0.16)
    top = np.argsort(-LOGITS, axis=1)[:, :20]
    near = {"rtol": 1e-3} if dtype == "float16" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(*(np.take_along_axis(x, top, axis=1) for x in (found, LOGITS)), **near)
    before, after = (torch.softmax(torch.from_numpy(x), 1).numpy() for x in (LOGITS, found))
    np.testing.assert_allclose(*(np.take_along_axis(x, top, axis=1) for x in (after, before)), rtol=0.02)
    others = np.array(found)
    np.put_along_axis(others, top, np.nan, axis=1)
    assert (np.nanmax(others, axis=1) == np.nanmin(others, axis=1)).all()


def test_other_heads_are_whole_and_numbers_beyond_float16_stay():
    form = Form("float16", 20, frozenset({"logits"}))
    assert form.packed(LOGITS, "other").shape == LOGITS.shape and form.packed(LOGITS[:, :20], "logits").shape == (
        50,
        20,
    )
    large = LOGITS * 1e5
    np.testing.assert_array_equal(restored(form.packed(large)), large)


def test_a_teacher_keeps_them_so(tmp_path):
    module = teachers.Net().eval()
    plain = teachers.teacher(module, tmp_path, hint="fusion")
    half = teachers.teacher(module, tmp_path, hint="fusion", form=Form("float16", 1, frozenset({"logits"})))
    batch = teachers.shuffled(0)[0]
    one, other = (each.outputs(batch, teachers.CPU) for each in (plain, half))
    top = one.heads["logits"].logits.argmax(1, keepdim=True)
    logits = [each.heads["logits"].logits.gather(1, top) for each in (one, other)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.hints[0], other.hints[0], rtol=1e-3, atol=1e-3)
    assert not torch.equal(one.heads["logits"].logits, other.heads["logits"].logits)


def test_a_teacher_computes_in_bf16_where_it_is_asked_to(tmp_path):
    module = teachers.Net().eval()
    found = [
        teachers.ModuleSource(
            module,
            teachers.CONTRACT,
            teachers.TrainingViews(teachers.samples(), {}, 0),
            [],
            key="t",
            who="it",
            how=Inference(each),
        )
        for each in ("fp32", "bf16")
    ]
    exact, rounded = (each.outputs(np.arange(9), 0).logits["logits"] for each in found)
    assert rounded.dtype == np.float32 and not np.array_equal(exact, rounded) and found[0].key != found[1].key
    np.testing.assert_allclose(exact, rounded, atol=0.05)


def test_rows_that_float16_does_not_reach_leave_those_before_them_as_they_were():
    form = Form("float16", 2, frozenset("h"))
    small = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    parts = [form.packed(small, "h"), form.packed(small * 1e6, "h"), form.packed(small, "h")]
    assert len({part.dtype for part in parts}) == 2
    assert np.array_equal(restored(joined(parts)), np.concatenate([restored(part) for part in parts]))
