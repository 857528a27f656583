"""CARAFE, masked convolution, PSA masks, focal losses and MMSyncBN's pieces against their definitions in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import bestiary  # noqa: F401  (it installs the provider)
from bestiary.errors import InputError


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CARAFE_CASES = {"plain": (3, 1, 2, 3), "grouped": (5, 2, 3, 4), "same size": (3, 2, 1, 2)}  # kernel, groups, scale, C


def carafe_case(name, batch=2, size=(4, 5)):
    kernel, groups, scale, channels = CARAFE_CASES[name]
    features = randn(batch, channels, *size)
    return features, randn(batch, groups * kernel**2, size[0] * scale, size[1] * scale, seed=1), (kernel, groups, scale)


def carafe_by_hand(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    out = np.zeros((batch, channels, height * scale, width * scale))
    for b, c, y, x in np.ndindex(*out.shape):
        group = c // (channels // groups)
        for u, v in np.ndindex(kernel, kernel):
            row, column = y // scale + u - kernel // 2, x // scale + v - kernel // 2
            if 0 <= row < height and 0 <= column < width:
                mask = masks[b, (group * kernel + u) * kernel + v, y, x]
                out[b, c, y, x] += (mask * features[b, c, row, column]).item()
    return out


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CARAFE_CASES)
def test_carafe(name, batch):
    from mmcv.ops import CARAFE, CARAFENaive

    features, masks, settings = carafe_case(name, batch)
    wanted = carafe_by_hand(features, masks, *settings)
    for layer in (CARAFE, CARAFENaive):
        np.testing.assert_allclose(layer(*settings)(features, masks), wanted, atol=1e-12)


@pytest.mark.parametrize("name", CARAFE_CASES)
def test_carafe_gradient(name):
    import mmcv._ext
    from mmcv.ops import carafe

    features, masks, settings = carafe_case(name, 1, (2, 2))
    features.requires_grad_(), masks.requires_grad_()
    assert gradcheck(lambda f, m: carafe(f, m, *settings), (features, masks), fast_mode=True)
    # mmcv's wrapper of the naive operator refuses a backward on the CPU: its function itself
    out = carafe(features, masks, *settings)
    wanted = torch.autograd.grad(out, (features, masks), out.detach())
    got = torch.zeros_like(features), torch.zeros_like(masks)
    mmcv._ext.carafe_naive_backward(out.detach(), features, masks, *got, *settings)
    assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))


def test_carafe_pack_in_half_precision():
    from mmcv.ops.carafe import CARAFEPack

    torch.manual_seed(0)
    pack = CARAFEPack(8, 2, compressed_channels=4).bfloat16()
    features = torch.randn(1, 8, 5, 3).bfloat16().requires_grad_()
    out = pack(features)
    assert out.dtype == torch.bfloat16 and out.shape == (1, 8, 10, 6)
    out.float().square().sum().backward()
    assert features.grad.isfinite().all() and pack.content_encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kernel, padding", [((1, 1), (0, 0)), ((3, 3), (1, 1)), ((5, 3), (2, 1))], ids=str)
def test_masked_conv(kernel, padding):
    from mmcv.ops import MaskedConv2d

    torch.manual_seed(0)
    layer = MaskedConv2d(3, 4, kernel, padding=padding).double()
    image = randn(1, 3, 6, 7)
    mask = randn(1, 6, 7, seed=2) > 0.3
    mask[0, 0, 0] = mask[0, 5, 6] = True  # patches over the border
    with torch.no_grad():
        dense = F.conv2d(image, layer.weight, layer.bias, padding=padding)
        assert torch.allclose(layer(image, mask), dense * mask, atol=1e-12)
        assert torch.equal(layer(image), dense)
        assert not layer(image, mask & False).any()


def test_masked_conv_whose_patches_start_at_the_mask():
    """Without padding the mask is larger than the output: what fits is right, the rest is an error that says so."""
    from mmcv.ops import MaskedConv2d

    torch.manual_seed(0)
    layer, image = MaskedConv2d(2, 3, 3).double(), randn(1, 2, 5, 6)
    mask = torch.zeros(1, 5, 6)
    mask[0, :3, :4] = randn(3, 4, seed=1) > 0
    with torch.no_grad():
        wanted = F.conv2d(image, layer.weight, layer.bias) * mask[:, :3, :4]
        assert torch.allclose(layer(image, mask), wanted, atol=1e-12)
        mask[0, 4, 0] = 1
        with pytest.raises(InputError, match="outside of the output of 3 x 4: take a padding"):
            layer(image, mask)


PSA_SIZES = {"small mask": ((3, 3), (4, 5)), "large mask": ((9, 11), (4, 5)), "even mask": ((4, 6), (5, 3))}


def psa_by_hand(masks, kind, mask_size):
    batch, _, height, width = masks.shape
    out = np.zeros((batch, height * width, height, width))
    for b, y, x, u, v in np.ndindex(batch, height, width, *mask_size):
        row, column = y + u - (mask_size[0] - 1) // 2, x + v - (mask_size[1] - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            value = masks[b, u * mask_size[1] + v, y, x].item()
            if kind == "collect":
                out[b, row * width + column, y, x] = value
            else:
                out[b, y * width + x, row, column] = value
    return out


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("name", PSA_SIZES)
def test_psa_mask(name, kind):
    from mmcv.ops import PSAMask

    mask_size, size = PSA_SIZES[name]
    masks = randn(2, mask_size[0] * mask_size[1], *size)
    layer = PSAMask(kind, mask_size)
    np.testing.assert_array_equal(layer(masks), psa_by_hand(masks, kind, mask_size))
    few = randn(1, mask_size[0] * mask_size[1], 3, 2, seed=1).requires_grad_()
    assert gradcheck(layer, few)


def sigmoid_focal_by_hand(logits, target, gamma, alpha, weight):
    out = np.zeros(logits.shape)
    for n, c in np.ndindex(*logits.shape):
        p = 1 / (1 + math.exp(-logits[n, c].item()))
        if target[n] == c:
            out[n, c] = -alpha * (1 - p) ** gamma * math.log(p)
        else:
            out[n, c] = -(1 - alpha) * p**gamma * math.log(1 - p)
        out[n, c] *= 1 if weight is None else weight[target[n]].item()
    return out


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_sigmoid_focal_loss(gamma, weighted):
    from mmcv.ops import SigmoidFocalLoss, sigmoid_focal_loss

    logits = randn(6, 4).requires_grad_()
    target = torch.tensor([0, 3, 2, 1, 0, 2] if weighted else [0, 3, 4, 1, 4, 2])  # 4: of no class
    weight = randn(4, seed=1).exp() if weighted else None
    wanted = sigmoid_focal_by_hand(logits.detach(), target, gamma, 0.3, weight)
    got = sigmoid_focal_loss(logits, target, gamma, 0.3, weight, "none")
    np.testing.assert_allclose(got.detach(), wanted, rtol=1e-10)
    mean = SigmoidFocalLoss(gamma, 0.3, weight, "mean")(logits, target)
    assert mean.item() == pytest.approx(wanted.sum() / 6)
    for reduction in ("none", "mean", "sum"):
        assert gradcheck(lambda t, r=reduction: sigmoid_focal_loss(t, target, gamma, 0.3, weight, r), logits)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_softmax_focal_loss(gamma, weighted):
    from mmcv.ops import SoftmaxFocalLoss, softmax_focal_loss

    logits = randn(6, 4).requires_grad_()
    target = torch.tensor([0, 3, -1, 1, -100, 2])  # negative: does not count
    weight = randn(4, seed=1).exp() if weighted else None
    wanted = np.zeros(6)
    for n, label in enumerate(target.tolist()):
        if label >= 0:
            powers = [math.exp(value) for value in logits[n].tolist()]
            p = powers[label] / sum(powers)
            wanted[n] = -0.3 * (1 - p) ** gamma * math.log(p) * (weight[label].item() if weighted else 1)
    got = softmax_focal_loss(logits, target, gamma, 0.3, weight, "none")
    np.testing.assert_allclose(got.detach(), wanted, rtol=1e-10)
    assert SoftmaxFocalLoss(gamma, 0.3, weight, "mean")(logits, target).item() == pytest.approx(wanted.sum() / 6)
    for reduction in ("mean", "sum"):
        assert gradcheck(lambda t, r=reduction: softmax_focal_loss(t, target, gamma, 0.3, weight, r), logits)


def test_focal_losses_of_sure_logits_and_of_none():
    from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

    for loss in (sigmoid_focal_loss, softmax_focal_loss):
        logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        value = loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, "sum")
        value.backward()
        assert value > 10 and logits.grad.isfinite().all()
        none = torch.zeros(0, 2, requires_grad=True)
        assert loss(none, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum") == 0


def test_focal_losses_check_labels():
    from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

    logits, weight = torch.randn(3, 4), torch.rand(4)
    with pytest.raises(InputError, match="sigmoid_focal_loss: target holds labels from 0 to 5, they must be at most 4"):
        sigmoid_focal_loss(logits, torch.tensor([0, 5, 1]))
    with pytest.raises(InputError, match="with class weights: .* from 1 to 4, they must be at least 0 and at most 3"):
        sigmoid_focal_loss(logits, torch.tensor([4, 1, 1]), 2.0, 0.25, weight)
    with pytest.raises(InputError, match="softmax_focal_loss: .* from -1 to 4, they must be at most 3: does num"):
        softmax_focal_loss(logits, torch.tensor([-1, 4, 1]))


def test_sync_bn_of_one_process():
    from mmcv.ops.sync_bn import SyncBatchNormFunction

    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*shape, generator=generator) for shape in ((3, 4, 5, 2), (4,), (4,))]
    grad = torch.randn(3, 4, 5, 2, generator=generator)
    results = []
    for ours in (True, False):
        image, weight, bias = (t.clone().to(torch.float32 if ours else torch.float64).requires_grad_() for t in tensors)
        mean, var = torch.full_like(weight, 0.3).detach(), torch.full_like(weight, 2.0).detach()
        if ours:
            out = SyncBatchNormFunction.apply(image, mean, var, weight, bias, 0.1, 1e-5, None, 1, "default")
        else:
            out = F.batch_norm(image, mean, var, weight, bias, True, 0.1, 1e-5)
        results.append((out, mean, var, *torch.autograd.grad(out, (image, weight, bias), grad.to(out.dtype))))
    for got, wanted in zip(*results, strict=True):
        assert torch.allclose(got.double(), wanted, atol=2e-5)


def test_sync_bn_over_processes_is_batch_norm_over_their_pictures():
    """The pieces, with the sums that all_reduce would make: two processes of two pictures."""
    import mmcv._ext as ext

    images = [randn(2, 3, 7, seed=seed).float() for seed in (0, 1)]
    weight, bias = (randn(3, seed=seed).float() for seed in (2, 3))
    means, variances = [torch.zeros(3), torch.zeros(3)], [torch.zeros(3), torch.zeros(3)]
    for image, mean in zip(images, means, strict=True):
        ext.sync_bn_forward_mean(image, mean)
    mean = sum(means) / 2
    for image, variance in zip(images, variances, strict=True):
        ext.sync_bn_forward_var(image, mean, variance)
    variance = sum(variances) / 2
    norms, outputs = ([torch.zeros_like(image) for image in images] for _ in range(2))
    std = torch.zeros(3)
    for image, norm, out in zip(images, norms, outputs, strict=True):
        running = torch.zeros(3), torch.ones(3)
        ext.sync_bn_forward_output(
            image, mean, variance, weight, bias, *running, norm, std, out, eps=1e-5, momentum=0.1, group_size=2
        )
    whole = torch.cat(images).double().requires_grad_()
    wanted_running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    wanted = F.batch_norm(whole, *wanted_running, weight.double(), bias.double(), True, 0.1, 1e-5)
    assert torch.allclose(torch.cat(outputs).double(), wanted, atol=1e-5)
    assert all(torch.allclose(r.double(), w, atol=1e-6) for r, w in zip(running, wanted_running, strict=True))
    grads = [randn(2, 3, 7, seed=seed).float() for seed in (4, 5)]
    parts = [(torch.zeros(3), torch.zeros(3)) for _ in grads]
    for grad, norm, part in zip(grads, norms, parts, strict=True):
        ext.sync_bn_backward_param(grad, norm, *part)
    averages = [sum(side) / 2 for side in zip(*parts, strict=True)]
    d_images = [torch.zeros_like(image) for image in images]
    for grad, norm, d_image in zip(grads, norms, d_images, strict=True):
        ext.sync_bn_backward_data(grad, weight, *averages, norm, std, d_image)
    (d_whole,) = torch.autograd.grad(wanted, whole, torch.cat(grads).double())
    assert torch.allclose(torch.cat(d_images).double(), d_whole, atol=1e-5)
