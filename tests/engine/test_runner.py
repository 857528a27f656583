"""The runner: what it logs, and what it says of checkpoints."""

from pathlib import Path

import pytest

from bestiary.engine.runner import build_runner
from bestiary.errors import InputError


def log_of(work_dir):
    return "\n".join(path.read_text() for path in Path(work_dir).rglob("*.log"))


def test_every_kind_is_known_in_our_scope(classifier):
    runner = build_runner(classifier)
    runner.train()
    log = log_of(runner.work_dir)
    assert "Epoch(val) [1][2/2]" in log  # all was built, and the log has what the terminal has not
    assert "Failed to search registry" not in log


def test_a_strategy_is_refused(classifier):
    classifier.strategy = dict(type="DDPStrategy")
    with pytest.raises(InputError, match="strategy: .* parallel='ddp', 'zero1' or 'fsdp'"):
        build_runner(classifier)
    classifier.strategy, classifier.sync_bn = None, "torch"
    with pytest.raises(InputError, match="sync_bn='torch': one process has nothing to share"):
        build_runner(classifier)
