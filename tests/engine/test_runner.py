"""The runner: what it logs, and what it says of checkpoints."""

from pathlib import Path

from bestiary.engine.runner import build_runner


def log_of(work_dir):
    return "\n".join(path.read_text() for path in Path(work_dir).rglob("*.log"))


def test_every_kind_is_known_in_our_scope(classifier):
    runner = build_runner(classifier)
    runner.train()
    log = log_of(runner.work_dir)
    assert "Epoch(val) [1][2/2]" in log  # all was built, and the log has what the terminal has not
    assert "Failed to search registry" not in log
