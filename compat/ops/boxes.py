"""Non-maximum suppression, hard, soft and with its matches, and overlaps of boxes.

Boxes are (N, 4) corners x1, y1, x2, y2; `offset` 1 counts the last pixel of a box in, as old datasets do. Thresholds
are float32, as in the compiled operators: a Python 0.3 is another number, and boxes on whole pixels meet it exactly.
"""

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .calling import widened


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (K,) of the boxes that no better one overlaps by more than the threshold, best first."""
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    boxes, scores = widened(boxes, scores)
    if offset:  # (x2 + 1) - x1 is the same width, and the same intersections follow
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))


def _overlaps(x1, y1, x2, y2, areas, one: int, others: slice, offset: int) -> np.ndarray:
    """IoU of box `one` with `others`, in the order of operations of the compiled loop."""
    width = np.minimum(x2[one], x2[others]) - np.maximum(x1[one], x1[others]) + offset
    height = np.minimum(y2[one], y2[others]) - np.maximum(y1[one], y1[others]) + offset
    inter = width.clip(min=0) * height.clip(min=0)
    return inter / (areas[one] + areas[others] - inter)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapped boxes instead of dropping them (Soft-NMS, arXiv:1704.04503).

    Args:
        boxes, scores: (N, 4) and (N,).
        dets: (N, 5), written: the kept boxes with their lowered scores, best first, in its first K rows.
        iou_threshold: methods 0 and 1 touch boxes that overlap at least this much.
        sigma: width of the Gaussian of method 2.
        min_score: boxes that fall below it are dropped.
        method: 0 drops, 1 multiplies by 1 - IoU, 2 by exp(-IoU^2 / sigma).
        offset: 0 or 1.

    Returns:
        (K,) indices of the kept boxes.
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    table = torch.column_stack([*widened(boxes, scores[:, None])]).cpu().numpy().T.copy()
    x1, y1, x2, y2, score = table
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    index = np.arange(len(score))
    columns = (x1, y1, x2, y2, score, areas, index)
    iou_threshold, sigma, min_score = np.float32([iou_threshold, sigma, min_score])
    kept, end = 0, len(score)
    # Dropped boxes are replaced by the last ones, and the best is swapped to the front: which of two equal scores comes
    # first depends on these moves, so they are made here too.
    with np.errstate(invalid="ignore", divide="ignore"):
        while kept < end:
            best = kept if np.isnan(score[kept]) else kept + int(np.nanargmax(score[kept:end]))
            for column in columns:
                column[kept], column[best] = column[best], column[kept]
            rest = slice(kept + 1, end)
            overlap = _overlaps(x1, y1, x2, y2, areas, kept, rest, offset)
            if method == 2:
                score[rest] *= np.exp(-(overlap * overlap) / sigma)
            else:
                factor = np.zeros_like(overlap) if method == 0 else 1 - overlap
                score[rest] *= np.where(overlap >= iou_threshold, factor, 1).astype(score.dtype)
            dropped = score[rest] < min_score
            kept += 1
            if dropped.any():
                new_end = end - int(dropped.sum())
                holes = kept + np.flatnonzero(dropped[: new_end - kept])
                fillers = new_end + np.flatnonzero(~dropped[new_end - kept :])[::-1]
                for column in columns:
                    column[holes] = column[fillers]
                end = new_end
    dets[:end] = torch.from_numpy(table[:, :end].T.copy()).to(dets)
    return torch.from_numpy(index[:end].copy()).to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices of (N, 5) boxes with scores: each kept box, then those that it suppresses, by score.

    Here an overlap equal to the threshold suppresses (PISA's hierarchical ranking, arXiv:1904.04821).
    """
    order = widened(dets)[0][:, 4].sort(descending=True, stable=True).indices.cpu().numpy()
    x1, y1, x2, y2 = widened(dets)[0][:, :4].cpu().numpy()[order].T.copy()
    areas = (x2 - x1) * (y2 - y1)
    threshold = np.float32(iou_threshold)
    free = np.ones(len(order), dtype=bool)
    groups = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for best in range(len(order)):
            if free[best]:
                rest = slice(best + 1, None)
                matched = free[rest] & (_overlaps(x1, y1, x2, y2, areas, best, rest, 0) >= threshold)
                free[rest] &= ~matched
                groups.append(order[[best, *(best + 1 + np.flatnonzero(matched))]].tolist())
    return groups


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write overlaps into `ious`: (M, N), or (M,) of pairs if `aligned`; over the union (mode 0) or box 1 (mode 1)."""
    first, second = widened(bboxes1, bboxes2)
    if not aligned:
        first = first[:, None]
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    inter = (high - low + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - inter
    ious.copy_(inter / area.clamp(min=offset))
