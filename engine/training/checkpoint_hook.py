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


def _erase(path: Path) -> None:
    """Remove a file, or a folder: the checkpoint of a sharded model."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Later:
    """A file backend whose removals wait."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.waiting = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.waiting.append((self.backend.remove, path))

    def rmtree(self, path: str) -> None:
        self.waiting.append((self.backend.rmtree, path))

    def forget(self) -> None:
        self.waiting.clear()

    def carry_out(self) -> None:
        for remove, path in self.waiting:
            if Path(path).exists():
                remove(path)
        self.waiting.clear()


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """As CheckpointHook, with the same arguments. An outdated checkpoint is removed when the new one is on the disk.

    Where the disk is full, the run says so and goes on, and tries again when the next checkpoint is due; the earlier
    ones stay. The last checkpoint of a run has to be written.

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
        self.file_backend = _Later(self.file_backend)
        if is_main_process():
            for part in Path(self.out_dir).glob(f"*{PART}"):
                _erase(part)
            for step in runner.message_hub.runtime_info.get("outdated_ckpt_ids", ()):
                self._remove(step)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state that `capture` collected in all processes."""
        if self._captured is not None:
            checkpoint[KEY] = self._captured

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """As CheckpointHook's; what is saved here has been validated."""
        if hasattr(runner.train_loop, "validated"):
            runner.train_loop.validated = runner.iter
        super().after_val_epoch(runner, metrics or {})
        self.file_backend.carry_out()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        before = list(getattr(self, "keep_ckpt_ids", ()))
        after, outdated = before, []
        if self.max_keep_ckpts > 0 and before[-1:] != [step]:
            after = [*before, step]
            after, outdated = after[-self.max_keep_ckpts :], after[: -self.max_keep_ckpts]
        self._keep(runner, after, outdated)
        if not self.save(runner, self.filename_tmpl.format(step), meta, self.by_epoch):
            self._keep(runner, before, [])
            self.file_backend.forget()
        elif is_main_process():
            for old in outdated:
                self._remove(old)
            for old in Path(self.out_dir).glob(self.interrupted.format("*")):
                _erase(old)

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
        trouble = [None]
        at_end = meta["iter"] >= runner.max_iters
        self._captured = capture(runner, meta["epoch"])
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_text(Path(runner.work_dir) / "last_checkpoint", self.last_ckpt)
        except OSError as error:
            if not is_full(error):
                raise
            trouble = [f"{self.last_ckpt}: not written: {error.strerror}; earlier checkpoints are untouched"]
        finally:
            self._captured = None
        broadcast_object_list(trouble)
        if trouble[0] is None:
            self.saved_iteration = meta["iter"]
            return True
        if at_end:
            raise InputError(f"{trouble[0]}. Make room, then go on with `--resume`")
        runner.logger.error(f"{trouble[0]}. The run goes on; make room before the next checkpoint")
        return False

    def _remove(self, step: int) -> None:
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        if path.exists():
            _erase(path)
