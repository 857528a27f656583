"""mmengine's CheckpointHook, under which no checkpoint is ever the only one and half written."""

import shutil
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ...errors import InputError
from ...files import PART, is_full, write_text
from ...registry import HOOKS
from ..parallel.folder import SUFFIX
from .state import KEY, capture

INTERRUPTED = "interrupted_iter_{}.pth"
FORMER = "former_best_ckpts"  # in the message hub: to be removed when a checkpoint that names the new one is there


def _erase(path: Path) -> None:
    """Remove a file, or a folder: the checkpoint of a sharded model."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """As CheckpointHook, with the same arguments. An outdated checkpoint is removed when the new one is on the disk.

    Where the disk is full, the run says so and goes on, and tries again when the next checkpoint is due; the earlier
    ones stay, and a best one that was not written does not count as the best. The last checkpoint of a run has to be
    written.

    Raises:
        InputError: there is no room for the last checkpoint.
    """

    interrupted = INTERRUPTED  # name of what is saved where a signal stops the run
    _captured: dict[str, Any] | None = None
    saved_iteration = -1  # of the newest checkpoint that can be gone on from

    def before_train(self, runner: Runner) -> None:
        """As CheckpointHook's; then remove what a killed process was about to remove, and halves of its files."""
        super().before_train(runner)
        if getattr(runner, "saves_folders", False):
            self.filename_tmpl = self.filename_tmpl.removesuffix(".pth") + SUFFIX
            self.interrupted = INTERRUPTED.removesuffix(".pth") + SUFFIX
        if is_main_process():
            for part in Path(self.out_dir).glob(f"*{PART}"):
                _erase(part)
            for step in runner.message_hub.runtime_info.get("outdated_ckpt_ids", ()):
                self._remove(step)
        self._remove_former_best(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state that `capture` collected in all processes."""
        if self._captured is not None:
            checkpoint[KEY] = self._captured

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """As CheckpointHook's; what is saved here has been validated."""
        if hasattr(runner.train_loop, "validated"):
            runner.train_loop.validated = runner.iter
        super().after_val_epoch(runner, metrics or {})

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        before = list(getattr(self, "keep_ckpt_ids", ()))
        after, outdated = before, []
        if self.max_keep_ckpts > 0 and before[-1:] != [step]:
            after = [*before, step]
            after, outdated = after[-self.max_keep_ckpts :], after[: -self.max_keep_ckpts]
        self._keep(runner, after, outdated)
        if not self.save(runner, self.filename_tmpl.format(step), meta, self.by_epoch):
            self._keep(runner, before, [])
            return
        if is_main_process():
            for old in outdated:
                self._remove(old)
            for old in Path(self.out_dir).glob(self.interrupted.format("*")):
                _erase(old)
        self._remove_former_best(runner)

    def _keep(self, runner: Runner, steps: list[int], outdated: list[int]) -> None:
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
            runner.message_hub.update_info("keep_ckpt_ids", steps)
            runner.message_hub.update_info("outdated_ckpt_ids", outdated)

    def save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> bool:
        """Write a checkpoint and the pointer to it; False if there was no room, which every process learns.

        Raises:
            InputError: there was no room, and the run is at its end.
        """
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self._captured = capture(runner, meta["epoch"])
        what = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler, **self.args)
        try:
            trouble = self._write(runner, name, meta, by_epoch, pointer=True, **what)
        finally:
            self._captured = None
        if trouble is None:
            self.saved_iteration = meta["iter"]
            return True
        if meta["iter"] >= runner.max_iters:
            raise InputError(f"{trouble}. Make room, then go on with `--resume`")
        runner.logger.error(f"{trouble}. The run goes on; make room before the next checkpoint")
        return False

    def _write(
        self, runner: Runner, name: str, meta: dict, by_epoch: bool, pointer: bool = False, **what: Any
    ) -> str | None:
        """Write a checkpoint, and the file that names the last one; what was wrong, which every process learns."""
        path = self.file_backend.join_path(self.out_dir, name)
        trouble = [None]
        places = dict(file_client_args=self.file_client_args, backend_args=self.backend_args)
        try:
            runner.save_checkpoint(self.out_dir, name, meta=meta, by_epoch=by_epoch, **places, **what)
            if pointer and is_main_process():
                write_text(Path(runner.work_dir) / "last_checkpoint", path)
        except OSError as error:
            if not is_full(error):
                raise
            trouble = [f"{path}: not written: {error.strerror}; earlier checkpoints are untouched"]
        broadcast_object_list(trouble)
        return trouble[0]

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """As CheckpointHook's, but the former best goes when the new one and a checkpoint naming it are there."""
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        step = runner.epoch if self.by_epoch else runner.iter
        several = len(self.key_indicators) > 1
        better = False
        for indicator, rule in zip(self.key_indicators, self.rules, strict=True):
            ending = f"_{indicator}" if several else ""  # mmengine's names: a run of its goes on here
            known = runner.message_hub.runtime_info
            score = metrics[indicator]
            best = known.get(f"best_score{ending}", self.init_value_map[rule])
            if score is None or not self.is_better_than[indicator](score, best):
                continue
            name = f"best_{indicator}_{self.filename_tmpl.format(step)}".replace("/", "_")
            trouble = self._write(runner, name, meta, False, save_optimizer=False, save_param_scheduler=False)
            if trouble is not None:
                runner.logger.error(f"{trouble}. The run goes on; make room before the next validation")
                continue
            better = True
            former = self.best_ckpt_path_dict.get(indicator) if several else self.best_ckpt_path
            path = self.file_backend.join_path(self.out_dir, name)
            if several:
                self.best_ckpt_path_dict[indicator] = path
            else:
                self.best_ckpt_path = path
            runner.message_hub.update_info(f"best_score{ending}", score)
            runner.message_hub.update_info(f"best_ckpt{ending}", path)
            if former and former != path:
                runner.message_hub.update_info(FORMER, [*known.get(FORMER, ()), former])
            runner.logger.info(f"The best checkpoint with {score:0.4f} {indicator} is saved to {name}.")
        # Again, for the one of this step names the former best, which a run that goes on from it would not remove.
        if better and self.last_ckpt is not None:
            self._save_checkpoint_with_step(runner, step, meta)
        elif better:
            self._remove_former_best(runner)

    def _remove_former_best(self, runner: Runner) -> None:
        """Remove what was the best when it was written and no longer is."""
        known = runner.message_hub.runtime_info
        bests = {path for key, path in known.items() if key.startswith("best_ckpt")}
        if is_main_process():
            for path in set(known.get(FORMER, ())) - bests:
                _erase(Path(path))
        runner.message_hub.update_info(FORMER, [])

    def _remove(self, step: int) -> None:
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        if path.exists():
            _erase(path)
