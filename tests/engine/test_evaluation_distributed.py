"""Two processes give the scores of one to the last bit, for a number of pictures that does not divide."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import evaluation_in_ranks
import pytest


@pytest.mark.parametrize(("processes", "count"), [(2, 7), pytest.param(3, 7, marks=pytest.mark.slow)])
def test_padded_pictures_count_once(processes, count, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command += [str(Path(evaluation_in_ranks.__file__)), str(tmp_path / "scores.json"), str(count)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"scores{rank}.json").read_text()) for rank in range(processes)]
    (tmp_path / "one").mkdir()
    expected = evaluation_in_ranks.evaluated(tmp_path / "one", count)
    assert all(scores == expected for scores in found)
    assert len(expected) == 24 + 4 + 2 + 1 + 2 + 1


def test_the_padded_picture_would_show(tmp_path):
    """Seven pictures with the first counted twice have other scores: the test above can fail."""
    made, truth = evaluation_in_ranks.samples(7)
    for metric in evaluation_in_ranks.metrics(tmp_path, truth, 7):
        metric.process(None, made)
        once = metric.evaluate(7)
        if type(metric).__name__ in ("StreamingIoU", "TopkAccuracy", "CalibrationError"):
            metric.process(None, [*made, made[0]])
            assert metric.evaluate(8) != once
