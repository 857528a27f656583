"""dist_*.sh and slurm_*.sh: what they start; and (slow) two machines' worth of a job, and two tasks of Slurm's."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bestiary import tools

TOOLS = Path(tools.__file__).parent
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$@"
"""
# Stands in for Slurm's: as many tasks as asked for on this machine; one that fails takes the others with it.
SRUN = """#!/usr/bin/env python3
import os, subprocess, sys, time
given, place = sys.argv[1:], 0
while given[place].startswith("-"):
    place += 2 if given[place] == "-p" else 1
options = dict(option.lstrip("-").split("=", 1) for option in given[:place] if "=" in option)
tasks = int(options["ntasks"])
common = {**os.environ, "SLURM_NTASKS": str(tasks), "SLURM_NODELIST": "node[1]", "SLURM_JOB_ID": "7",
          "SLURM_NTASKS_PER_NODE": options["ntasks-per-node"]}
jobs = [subprocess.Popen(given[place:], env={**common, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)})
        for n in range(tasks)]
while any(job.poll() is None for job in jobs):
    if options.get("kill-on-bad-exit") == "1" and any(job.poll() for job in jobs):
        for job in jobs:
            job.terminate()
    time.sleep(0.05)
sys.exit(max(abs(job.returncode) for job in jobs))
"""
SCONTROL = "#!/bin/sh\necho 127.0.0.1\n"


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def clean(**more):
    """The environment without what a launcher or pytest has set, and with `more`."""
    ours = ("PYTEST", "SLURM", "GPUS", "NNODES", "NODE_RANK", "MASTER_", "MAX_RESTARTS", "RANK", "WORLD_SIZE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


@pytest.fixture
def stand_ins(tmp_path):
    """A folder with srun, scontrol and a `python` that prints its arguments, one a line."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("recorder", RECORDER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def started(script, *argv, **env):
    done = subprocess.run([TOOLS / script, *argv], env=clean(**env), capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_dist_train_meets_by_c10d(stand_ins):
    recorder = str(stand_ins / "recorder")
    status, words, _ = started("dist_train.sh", "CONFIG", "2", "--amp", PYTHON=recorder, PORT="1234", MAX_RESTARTS="3")
    assert status == 0
    assert words[:2] == ["-m", "torch.distributed.run"] and "--nproc_per_node=2" in words and "--nnodes=1" in words
    assert "--rdzv_backend=c10d" in words and "--rdzv_endpoint=127.0.0.1:1234" in words and "--max-restarts=3" in words
    assert words[-5:] == [str(TOOLS / "train.py"), "CONFIG", "--launcher", "pytorch", "--amp"]
    several = dict(PYTHON=recorder, NNODES="2", MASTER_ADDR="node1")
    for rank, host in (("0", "true"), ("1", "false")):
        words = started("dist_test.sh", "CONFIG", "FILE", "4", NODE_RANK=rank, **several)[1]
        assert f"--rdzv_conf=is_host={host}" in words and "--rdzv_endpoint=node1:29500" in words
        assert "--max-restarts=0" in words
        assert words[-5:] == [str(TOOLS / "test.py"), "CONFIG", "FILE", "--launcher", "pytorch"]
    assert started("dist_train.sh", "CONFIG")[0] == 2 and started("dist_test.sh", "CONFIG", "FILE")[0] == 2


def test_slurm_starts_as_mm_users_know(stand_ins):
    # srun itself is the recorder: what would be asked of Slurm.
    (stand_ins / "srun").write_text(RECORDER)
    path = f"{stand_ins}:{os.environ['PATH']}"
    argv = ("slurm_train.sh", "gpus", "my_job", "CONFIG", "WORK", "--amp")
    words = started(*argv, PATH=path, GPUS="16", CPUS_PER_TASK="4", SRUN_ARGS="--time=1:00 --exclusive", PYTHON="py")[1]
    assert words == [
        *("-p", "gpus", "--job-name=my_job", "--ntasks=16", "--ntasks-per-node=8", "--cpus-per-task=4", "--gres=gpu:8"),
        *("--kill-on-bad-exit=1", "--time=1:00", "--exclusive", "py", "-u", str(TOOLS / "train.py"), "CONFIG"),
        *("--work-dir", "WORK", "--launcher", "slurm", "--amp"),
    ]
    words = started("slurm_test.sh", "cpus", "my_job", "CONFIG", "FILE", PATH=path, GPUS="4", GPUS_PER_NODE="0")[1]
    assert "--ntasks-per-node=4" in words and not any("gres" in word for word in words)
    assert words[-5:] == [str(TOOLS / "test.py"), "CONFIG", "FILE", "--launcher", "slurm"]
    status, _, err = started("slurm_train.sh", "gpus", "my_job", "CONFIG")
    assert status == 2 and err.startswith("usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR")


def test_without_slurm_it_says_so(tmp_path):
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    status, _, err = started("slurm_train.sh", "gpus", "my_job", "CONFIG", "WORK", PATH=str(tmp_path))
    assert status == 1 and err.startswith("error: no srun here")


OPTIONS = ["--threads", "1", "--cfg-options", "train_dataloader.batch_size=2", "train_cfg.max_iters=2"]


@pytest.mark.slow
def test_two_tasks_of_slurm_train(tiny, stand_ins, tmp_path):
    env = clean(PATH=f"{stand_ins}:{os.environ['PATH']}", GPUS="2", GPUS_PER_NODE="0", MASTER_PORT=port())
    command = [TOOLS / "slurm_train.sh", "cpus", "job", tiny / "segmentation.py", tmp_path / "work", *OPTIONS]
    done = subprocess.run(command, env=env | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "by 2 processes" in done.stdout, done.stderr[-3000:]
    assert json.loads((tmp_path / "work" / "metrics.json").read_text())["metrics"]["aAcc"] > 0
    logs = sorted(path.name for path in (tmp_path / "work").rglob("rank*.log"))
    assert logs == ["rank0.log", "rank1.log"]
    # A task that fails is named, and takes the job with it.
    bad = [*command, "model.decode_head.in_channels=9"]
    done = subprocess.run(bad, env=env | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=400)
    assert done.returncode != 0 and done.stderr.count("error: FCNHead: in_channels [9] do not fit") == 1


@pytest.mark.slow
def test_two_machines_train(tiny, tmp_path):
    """Two launchers, a process each, which meet at an address."""
    env = clean(PYTHON=sys.executable, NNODES="2", MASTER_ADDR="127.0.0.1", PORT=port())
    command = [TOOLS / "dist_train.sh", tiny / "segmentation.py", "1", "--work-dir", tmp_path / "work", *OPTIONS]
    jobs = [
        subprocess.Popen(
            command, env=env | {"NODE_RANK": rank}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in ("1", "0")
    ]
    said = [job.communicate(timeout=400) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said[0][1][-2000:] + said[1][1][-2000:]
    assert sum("by 2 processes" in out for out, _ in said) == 1
    assert len(list((tmp_path / "work").rglob("rank*.log"))) == 2
