"""Scores of classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from ..registry import METRICS


@METRICS.register_module()
class TopkAccuracy(BaseMetric):
    """The share of pictures whose class is among the k best scored, in 0..1, as `accuracy/top1`, `accuracy/top5`.

    Args:
        topk: the k's; one that exceeds the number of classes is refused.
    """

    default_prefix = "accuracy"

    def __init__(
        self, topk: int | Sequence[int] = (1, 5), collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember, a picture, the rank of its true class: 0 is best."""
        for sample in data_samples:
            score, label = sample["pred_score"].float(), int(sample["gt_label"])
            if max(self.topk) > score.numel():
                raise ValueError(f"TopkAccuracy: topk {self.topk} with {score.numel()} classes; set topk in the config")
            # Ties count against the model: equal scores are no answer. So do scores that are not a number.
            beaten = (score >= score[label]).sum().item() - 1
            self.results.append(beaten if torch.isfinite(score[label]) else score.numel())

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """The scores over all pictures."""
        ranks = torch.tensor(results)
        return {f"top{k}": (ranks < k).double().mean().item() for k in self.topk}
