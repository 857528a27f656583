"""Which pictures an epoch takes, in which order."""

from collections.abc import Sized

from mmengine.dist import get_dist_info, sync_random_seed
from timm.data.distributed_sampler import RepeatAugSampler

from ..registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class RepeatAugmentSampler(RepeatAugSampler):
    """Every picture several times in an epoch, each time augmented anew, on different processes (arXiv:1901.09335).

    timm's sampler with mmengine's arguments. An epoch has as many steps as without repeats, so that it sees a
    `num_repeats`-th of the pictures.

    Args:
        dataset: what is sampled.
        num_repeats: how often.
        seed: of the order; None draws one that all processes share.
    """

    def __init__(self, dataset: Sized, num_repeats: int = 3, seed: int | None = None) -> None:
        rank, world_size = get_dist_info()
        super().__init__(dataset, num_replicas=world_size, rank=rank, num_repeats=num_repeats)
        self.seed = sync_random_seed() if seed is None else seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """timm's order hangs on the epoch alone; here on the seed, too."""
        super().set_epoch(self.seed % 2**31 * 2**20 + epoch)
