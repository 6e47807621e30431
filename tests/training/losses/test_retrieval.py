"""The losses of pairs: hand-worked values, who is no negative, absent towers, and a teacher of another width."""

import math

import pytest
import torch

from mmedge.errors import UsageError
from mmedge.recipe import Loss, Train
from mmedge.tasks import Head
from mmedge.training.losses import retrieval

HEAD = Head(task="retrieval", towers={"image": ("image",), "text": ("text",)}, dimensions=3)


def of(images, texts):
    return torch.cat([torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(texts, dtype=torch.float32)], dim=1)


def pairs(*things, kin=None):
    return torch.tensor(list(zip(things, kin or range(len(things)))))


def loss(output, targets, **keys):
    return retrieval.label_loss(output, targets, HEAD, Train(**keys), None)


def test_of_pairs_that_are_all_their_own_it_is_the_symmetric_cross_entropy():
    torch.manual_seed(0)
    images, texts = torch.randn(2, 8, 3)
    likeness, own = images @ texts.T, torch.arange(8)
    cross = torch.nn.functional.cross_entropy
    expected = (cross(likeness, own) + cross(likeness.T, own)) / 2
    assert loss(of(images, texts), pairs(*range(8))) == pytest.approx(float(expected))


def test_of_the_sigmoid_each_two_are_told_by_themselves():
    output = of([[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0.5]])
    # Likenesses 1, 0 / 0, 0; two pairs and two that are none, so that the odds are even.
    expected = (math.log1p(math.exp(-1)) + 3 * math.log(2)) / 2
    assert loss(output, pairs(0, 1), contrast="sigmoid") == pytest.approx(expected)


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_kin_are_no_negatives_and_rows_of_one_thing_are_right_for_each_other(contrast):
    images = torch.eye(3)
    near = of(images, torch.eye(3)[[0, 0, 2]])  # the second text is as the first
    apart = loss(near, pairs(0, 1, 2), contrast=contrast)
    assert loss(near, pairs(0, 1, 2, kin=[5, 5, 6]), contrast=contrast) < apart
    assert loss(near, pairs(0, 0, 2), contrast=contrast) != pytest.approx(float(apart))
    one = near.clone().requires_grad_()
    alone = loss(one, pairs(7, 7, 7), contrast=contrast)  # nothing is wrong for anything
    alone.backward()
    assert torch.isfinite(alone) and torch.isfinite(one.grad).all()


def test_rows_that_lack_a_side_or_whose_pair_is_not_known_count_as_nothing():
    torch.manual_seed(0)
    output = torch.randn(6, 6)
    expected = float(loss(output[:4], pairs(0, 1, 2, 3))) * 4 / 6
    assert loss(output, pairs(0, 1, 2, 3, -1, -1)) == pytest.approx(expected)
    output[4:, 3:] = 0
    assert loss(output, pairs(*range(6))) == pytest.approx(expected)
    assert loss(output[4:], pairs(4, 5)) == 0


def test_a_teacher_of_another_width_is_mimicked_in_what_is_like_what():
    torch.manual_seed(0)
    teacher = torch.randn(12, 10)
    # The same likenesses in three dimensions: both sides of the teacher's products by their singular vectors.
    left, sizes, right = torch.linalg.svd(teacher[:, :5] @ teacher[:, 5:].T)
    head = HEAD.model_copy(update={"dimensions": 5})
    same = torch.cat([left[:, :5] * sizes[:5].sqrt(), right[:5].T * sizes[:5].sqrt()], dim=1)
    wrong = torch.randn(12, 6, requires_grad=True)
    targets = torch.full((12, 2), -1)  # no pair need be known
    assert retrieval.teacher_loss(same, teacher, targets, head, Loss()) == pytest.approx(0, abs=1e-5)
    far = retrieval.teacher_loss(wrong, teacher, targets, HEAD, Loss())
    far.backward()
    assert far > 0.01 and torch.isfinite(wrong.grad).all()
    nothing = torch.zeros(12, 6, requires_grad=True)
    assert retrieval.teacher_loss(nothing, teacher, targets, HEAD, Loss()) == 0


def test_several_teachers_have_no_common_space():
    with pytest.raises(UsageError, match="spaces of their own"):
        retrieval.check_together([], None)
