"""Dice losses against loops over pictures, classes and pixels."""

import pytest
import torch

from bestiary.heads import BinaryDiceLoss, ClassDiceLoss


def data(classes, batch=3, height=5, width=7, ignored=0.2):
    torch.manual_seed(0)
    logits = torch.randn(batch, classes, height, width, dtype=torch.float64)
    target = torch.randint(max(classes, 2), (batch, height, width))
    target[torch.rand(target.shape) < ignored] = 255
    return logits.requires_grad_(), target


@pytest.mark.parametrize("weighted", [False, True])
def test_binary(weighted):
    logits, target = data(1)
    weight = torch.rand(target.shape, dtype=torch.float64) if weighted else None
    found = BinaryDiceLoss(loss_weight=0.7)(logits, target, weight, ignore_index=255)
    losses = []
    for picture, truth, share in zip(logits, target, weight if weighted else torch.ones(target.shape), strict=True):
        both = found_all = wanted_all = 0.0
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                if truth[y, x] != 255:
                    p, t, w = picture[0, y, x].sigmoid(), float(truth[y, x] == 1), share[y, x]
                    both, found_all, wanted_all = both + p * t * w, found_all + p * w, wanted_all + t * w
        losses.append(1 - (2 * both + 1) / (found_all + wanted_all + 1))
    torch.testing.assert_close(found, 0.7 * sum(losses) / len(losses))
    found.backward()
    assert (logits.grad[:, 0][target == 255] == 0).all() and logits.grad.abs().sum() > 0


def test_binary_at_its_ends():
    target = torch.tensor([[[0, 1], [1, 0]]])
    right = torch.where(target == 1, 50.0, -50.0)[:, None]
    assert float(BinaryDiceLoss()(right, target)) == pytest.approx(0, abs=1e-6)
    assert float(BinaryDiceLoss()(-right, target)) == pytest.approx(1 - 1 / 5)
    nothing = torch.zeros(2, 3, 3, dtype=torch.long)
    assert float(BinaryDiceLoss()(torch.full((2, 1, 3, 3), -50.0), nothing)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="takes one output a pixel, got 2: set out_channels=1"):
        BinaryDiceLoss()(torch.zeros(1, 2, 2, 2), target)


@pytest.mark.parametrize("batch", [1, 3])
def test_classes(batch):
    logits, target = data(4, batch)
    target[target == 3] = 2  # a class that does not occur
    found = ClassDiceLoss(loss_weight=2.0)(logits, target)
    shares, losses = logits.softmax(1), []
    for number in range(4):
        both = squares = 0.0
        for picture, truth in zip(shares, target, strict=True):
            kept = truth != 255
            p, t = picture[number][kept], (truth[kept] == number).double()
            both, squares = both + (p * t).sum(), squares + (p * p).sum() + (t * t).sum()
        losses.append(1 - (2 * both + 1e-5) / (squares + 1e-5))
    torch.testing.assert_close(found, 2 * sum(losses) / 4)
    assert torch.autograd.gradcheck(lambda x: ClassDiceLoss()(x, target), (logits,))


def test_mmseg_lists_them():
    assert BinaryDiceLoss().loss_name == ClassDiceLoss().loss_name == "loss_dice"
    assert ClassDiceLoss(loss_name="loss_other").loss_name == "loss_other"
