"""mmengine's Runner with the config's key `parallel`: how the model is wrapped, optimized, saved and gone on with."""

import time
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.model import convert_sync_batchnorm, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from ...compat.mmengine_patches import batch_norm_for_cpu
from ..parameter_groups import merge_groups
from . import folder, zero  # noqa: F401  (zero registers its optimizer)
from .batch_norm import need_sync_bn
from .choice import Parallel, need_fitting, read_parallel
from .sharding import has_batch_norm, is_sharded, keep_whole_states, shard

WEIGHTS = ".pth"  # ends the names of checkpoints in one file


class SharingRunner(Runner):
    """Runner with `cfg.parallel`: see `Parallel`. Without it, or in one process, it is mmengine's.

    Under fsdp with sharded checkpoints a checkpoint of the run is a folder; one of weights alone, as the best by a
    metric, stays a file of whole weights.

    Raises:
        InputError: what else the config names does not go with the kind.
    """

    @property
    def parallel(self) -> Parallel:
        """What the config asks for; ddp in one process."""
        asked = read_parallel(self.cfg.get("parallel"))
        return asked if get_world_size() > 1 else Parallel()

    @property
    def saves_folders(self) -> bool:
        """Whether a checkpoint that the run can go on from is a folder."""
        return self.parallel.type == "fsdp" and self.parallel.checkpoint == "sharded"

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As Runner's; a model that is to be sharded is so when its weights are there: see `build_optim_wrapper`."""
        need_sync_bn(self.cfg, get_world_size(), get_device())
        if self.parallel.type != "fsdp" or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        if get_device() == "cpu":
            return batch_norm_for_cpu(model)
        return model if (kind := self.cfg.get("sync_bn")) is None else convert_sync_batchnorm(model, kind)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """As Runner's, with merged groups; weights are initialised and sharded first: it takes what is left of them."""
        built = self._build_optim_wrapper(optim_wrapper)
        for one in built.values() if isinstance(built, OptimWrapperDict) else [built]:
            if isinstance(one, OptimWrapper):
                merge_groups(one.optimizer)
        return built

    def _build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        kind = self.parallel.type
        if kind == "ddp" or isinstance(optim_wrapper, OptimWrapper):
            return super().build_optim_wrapper(optim_wrapper)
        need_fitting(self.parallel, self.cfg)
        if kind == "zero1":
            return super().build_optim_wrapper(_with_zero(optim_wrapper))
        self._init_model_weights()
        amp = _amp_dtype(optim_wrapper)
        if amp is not None and has_batch_norm(self.model):
            self.logger.warning("parallel='fsdp': weights travel in float32, for batch norms take no other")
        units = shard(self.model, self.parallel, amp)
        self.logger.info(f"parallel='fsdp': sharded by {len(units)} units and the rest: {', '.join(units)}")
        built = super().build_optim_wrapper(optim_wrapper)
        keep_whole_states(built.optimizer)
        return built

    def _init_model_weights(self) -> None:
        if not is_sharded(self.model):  # then they are there already
            super()._init_model_weights()

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As Runner's; a folder if `saves_folders` and the optimizer is to be saved."""
        with_optimizer = kwargs.get("save_optimizer", True)
        if not self.saves_folders or not with_optimizer:
            if is_main_process():
                super().save_checkpoint(out_dir, filename, *args, **kwargs)
            elif self.parallel.type != "ddp":  # mmengine asks the first rank alone: the others give their shares here
                self.model.state_dict()
                if with_optimizer:
                    self.optim_wrapper.state_dict()
            return
        meta = dict(kwargs.get("meta") or {})
        by_epoch = kwargs.get("by_epoch", True)
        meta.setdefault("epoch", self.epoch + int(by_epoch))
        meta.setdefault("iter", self.iter + int(not by_epoch))
        meta.update(
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime("%Y%m%d_%H%M%S", time.localtime()),
            mmengine_version=mmengine.__version__,
        )
        if hasattr(self.train_dataloader.dataset, "metainfo"):
            meta["dataset_meta"] = self.train_dataloader.dataset.metainfo
        rest = dict(meta=meta, message_hub=self.message_hub.state_dict(), wrapper=self._of_wrapper())
        if kwargs.get("save_param_scheduler", True) and self.param_schedulers is not None:
            rest["param_schedulers"] = [scheduler.state_dict() for scheduler in self.param_schedulers]
        self.call_hook("before_save_checkpoint", checkpoint=rest)
        folder.save(Path(out_dir) / filename, self.model, self.optim_wrapper.optimizer, rest)

    def load_folder(self, path: str) -> dict[str, Any]:
        """Model, optimizer and scaler out of a folder; returns the rest of the checkpoint.

        Raises:
            InputError: it is damaged, or of another model.
        """
        rest = folder.load(path, self.model, self.optim_wrapper.optimizer)
        wrapper = rest.pop("wrapper")
        if "loss_scaler" in wrapper:
            self.optim_wrapper.loss_scaler.load_state_dict(wrapper["loss_scaler"])
        if "base_param_settings" in wrapper:
            self.optim_wrapper.base_param_settings = wrapper["base_param_settings"]
        return rest

    def _of_wrapper(self) -> dict[str, Any]:
        wrapper = self.optim_wrapper
        found = {}
        if wrapper.base_param_settings is not None:
            found["base_param_settings"] = wrapper.base_param_settings
        scaler = getattr(wrapper, "loss_scaler", None)
        if scaler is not None and (state := scaler.state_dict()):
            found["loss_scaler"] = state
        return found


def _with_zero(optim_wrapper: dict | ConfigDict) -> dict:
    """The config of an optimizer's wrapper with ZeRO's about the optimizer."""
    optimizer = dict(optim_wrapper["optimizer"])
    inner = optimizer.pop("type")
    return {**optim_wrapper, "optimizer": dict(type="bestiary.ZeroOptimizer", optimizer_type=inner, **optimizer)}


def _amp_dtype(optim_wrapper: dict | ConfigDict) -> torch.dtype | None:
    """In what the config asks the model to compute, if not in float32."""
    if not str(optim_wrapper.get("type")).split(".")[-1].startswith("Amp"):
        return None
    dtype = optim_wrapper.get("dtype") or ("bfloat16" if get_device() == "cpu" else "float16")
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
