"""nms, soft_nms, nms_match and bbox_overlaps against loops over single boxes, written from their definitions."""

import numpy as np
import pytest
import torch

import bestiary  # noqa: F401  (it installs the provider)

F32 = np.float32


def iou(a, b, offset):
    """Of two boxes of float32 numbers."""
    width = max(F32(0), min(a[2], b[2]) - max(a[0], b[0]) + F32(offset))
    height = max(F32(0), min(a[3], b[3]) - max(a[1], b[1]) + F32(offset))
    inter = width * height
    area_a, area_b = ((c[2] - c[0] + F32(offset)) * (c[3] - c[1] + F32(offset)) for c in (a, b))
    with np.errstate(invalid="ignore"):
        return inter / (area_a + area_b - inter)


def nms_by_hand(boxes, scores, threshold, offset):
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not any(iou(boxes[k], boxes[i], offset) > F32(threshold) for k in kept):
            kept.append(int(i))
    return kept


def softnms_by_hand(boxes, scores, threshold, sigma, min_score, method, offset):
    """One box after the other, moved about as Soft-NMS in place does."""
    rows = [[*box, score, i] for i, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    i, count = 0, len(rows)
    while i < count:
        best = i
        for j in range(i + 1, count):
            if rows[j][4] > rows[best][4]:
                best = j
        rows[i], rows[best] = rows[best], rows[i]
        j = i + 1
        while j < count:
            overlap = iou(rows[i], rows[j], offset)
            weight = F32(1)
            if method == "gaussian":
                weight = np.exp(-(overlap * overlap) / F32(sigma))
            elif overlap >= F32(threshold):
                weight = F32(0) if method == "naive" else F32(1) - overlap
            rows[j][4] = rows[j][4] * weight
            if rows[j][4] < F32(min_score):
                count -= 1
                rows[j] = list(rows[count])
            else:
                j += 1
        i += 1
    return np.array([row[:5] for row in rows[:count]], dtype=F32), [row[5] for row in rows[:count]]


def random_boxes(seed, count, whole=False):
    rng = np.random.default_rng(seed)
    low, size = rng.uniform(0, 40, (count, 2)), rng.uniform(0, 25, (count, 2))
    boxes = np.concatenate([low, low + size], axis=1)
    scores = rng.uniform(0, 1, count)
    if whole:  # pixels and tied scores
        boxes, scores = boxes.round(), (scores * 5).round() / 5
    return boxes.astype(F32), scores.astype(F32)


@pytest.mark.parametrize("whole", [False, True], ids=["real", "whole"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms(threshold, offset, whole):
    from mmcv.ops import nms

    for seed in range(12):
        boxes, scores = random_boxes(seed, 30, whole)
        dets, kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, offset)
        assert kept.tolist() == nms_by_hand(boxes, scores, threshold, offset)
        np.testing.assert_array_equal(dets, np.column_stack([boxes, scores])[kept])
        dets_of_arrays, kept_of_arrays = nms(boxes, scores, threshold, offset)
        assert isinstance(kept_of_arrays, np.ndarray) and kept_of_arrays.tolist() == kept.tolist()
        assert dets_of_arrays.dtype == F32


def test_nms_rounds_its_threshold():
    """Overlap 3 / 10 is the float32 0.3, more than the Python number: in compiled mmcv it does not suppress."""
    from mmcv.ops import nms, nms_match

    boxes, scores = torch.tensor([[0.0, 0, 8, 1], [5, 0, 10, 1]]), torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.3)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.29)[1].tolist() == [0]
    assert [m.tolist() for m in nms_match(torch.column_stack([boxes, scores]), 0.3)] == [[0, 1]]  # equal suppresses


def test_nms_ties_go_to_the_first():
    from mmcv.ops import nms

    box = torch.tensor([[1.0, 2, 7, 9]])
    assert nms(box.repeat(4, 1), torch.full((4,), 0.5), 0.5)[1].tolist() == [0]
    apart = box + 20 * torch.arange(4.0)[:, None]
    assert nms(apart, torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 1, 2, 3]


def test_nms_filters_and_limits():
    from mmcv.ops import nms

    boxes, scores = random_boxes(3, 25)
    _, kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5, score_threshold=0.4, max_num=3)
    strong = np.flatnonzero(scores > 0.4)
    assert kept.tolist() == strong[nms_by_hand(boxes[strong], scores[strong], 0.5, 0)].tolist()[:3]


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count):
    from mmcv.ops import nms, nms_match, soft_nms

    boxes, scores = (torch.from_numpy(t) for t in random_boxes(0, count))
    for run in (nms, soft_nms):
        dets, kept = run(boxes, scores, 0.5)
        assert dets.shape == (count, 5) and kept.tolist() == list(range(count)) and kept.dtype == torch.int64
    assert [m.tolist() for m in nms_match(torch.column_stack([boxes, scores]), 0.5)] == [[0]] * count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_nms_in_other_dtypes(dtype):
    from mmcv.ops import nms

    boxes, scores = (torch.from_numpy(t).to(dtype) for t in random_boxes(5, 20, whole=True))
    dets, kept = nms(boxes, scores, 0.5)
    assert dets.dtype == dtype
    assert kept.tolist() == nms_by_hand(boxes.float().numpy(), scores.float().numpy(), 0.5, 0)


def test_batched_nms_keeps_classes_apart():
    from mmcv.ops import batched_nms

    boxes, scores = random_boxes(8, 30)
    classes = np.arange(30) % 3
    _, kept = batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), dict(type="nms", iou_threshold=0.5))
    members = [np.flatnonzero(classes == c) for c in range(3)]
    wanted = np.concatenate([own[nms_by_hand(boxes[own], scores[own], 0.5, 0)] for own in members])
    assert kept.tolist() == wanted[np.argsort(-scores[wanted])].tolist()


@pytest.mark.parametrize("whole", [False, True], ids=["real", "whole"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method, offset, whole):
    from mmcv.ops import soft_nms

    for seed, min_score in enumerate((1e-3, 0.05, 0.3, 0.6)):
        boxes, scores = random_boxes(seed, 35, whole)
        dets, kept = soft_nms(boxes, scores, 0.3, 0.5, min_score, method, offset)
        wanted, wanted_kept = softnms_by_hand(boxes, scores, 0.3, 0.5, min_score, method, offset)
        assert kept.tolist() == wanted_kept
        np.testing.assert_array_equal(dets[:, :4], wanted[:, :4])
        np.testing.assert_allclose(dets[:, 4], wanted[:, 4], rtol=1e-6)
    assert len(wanted) < 35, "nothing was dropped: the test is too kind"


def test_soft_nms_writes_the_given_tensor():
    import mmcv._ext

    boxes, scores = (torch.from_numpy(t) for t in random_boxes(2, 10))
    before = boxes.clone(), scores.clone()
    dets = torch.full((10, 5), -7.0)
    kept = mmcv._ext.softnms(boxes, scores, dets, 0.3, 0.5, 0.4, 1, 0)
    assert 0 < len(kept) < 10
    assert torch.equal(dets[: len(kept), :4], boxes[kept]) and (dets[len(kept) :] == -7).all()
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])


@pytest.mark.parametrize("whole", [False, True], ids=["real", "whole"])
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_nms_match(threshold, whole):
    from mmcv.ops import nms_match

    for seed in range(8):
        boxes, scores = random_boxes(seed, 30, whole)
        free, wanted = np.argsort(-scores, kind="stable").tolist(), []
        while free:
            wanted.append([i for i in free if i == free[0] or iou(boxes[free[0]], boxes[i], 0) >= F32(threshold)])
            free = [i for i in free if i not in wanted[-1]]
        groups = nms_match(np.column_stack([boxes, scores]), threshold)
        assert [group.tolist() for group in groups] == wanted
        assert nms_match(torch.from_numpy(np.column_stack([boxes, scores])), threshold)[0].dtype == torch.int64


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps(mode, offset):
    from mmcv.ops import bbox_overlaps

    a, b = (torch.from_numpy(random_boxes(seed, 7)[0]) for seed in (0, 1))
    got = bbox_overlaps(a, b[:5], mode, offset=offset)
    for i in range(7):
        for j in range(5):
            share = iou(a[i].numpy(), b[j].numpy(), offset)
            if mode == "iof":  # of the first box's area alone
                area_a, area_b = (((c[2] - c[0] + offset) * (c[3] - c[1] + offset)).item() for c in (a[i], b[j]))
                share = share * (area_a + area_b) / (1 + share) / area_a
            assert got[i, j].item() == pytest.approx(share, rel=1e-4, abs=1e-6)
    pairs = bbox_overlaps(a, b, mode, aligned=True, offset=offset)
    assert torch.allclose(pairs, bbox_overlaps(a, b, mode, offset=offset).diagonal())
    assert bbox_overlaps(a[:0], b, mode).shape == (0, 7)
