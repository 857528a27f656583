"""The check-up: each shortcoming is made to happen, and told with what to do."""

import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from shares import one_day_in

from bestiary.tools import cli, doctor, doctor_machine, doctor_probe
from bestiary.tools.doctor_machine import Finding

Usage = namedtuple("Usage", "total used free")


def run(*words, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bestiary.tools.cli", "doctor", *words],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


def probed(name, **environment):
    """A probe's findings by name, its own process's status and errors."""
    command = [sys.executable, "-m", "bestiary.tools.doctor_probe", name]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["name"]: Finding(**one) for one in records if "status" in one}, done


def test_a_machine_that_can_train():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run("--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["training_works"], done.stdout + done.stderr
    found = {one["name"]: one for one in told["findings"]}
    for name in ("python", "pytorch", "step on the CPU", "worker", "mmcv operators", "memory", "disk", "compiler"):
        assert found[name]["status"] in ("ok", "note", "warn"), found[name]
    assert found["step on the CPU"]["found"].startswith("loss ") and "MiB" in found["worker"]["found"]
    assert "torch " in found["versions"]["found"] and "mmdet " in found["versions"]["found"]
    operators = ("neighborhood_attention", "bi_level_routing_attention", "selective_scan")
    assert all("reference" in found[name]["found"] for name in operators)
    assert {"cpu", "cores", "when"} <= set(told["machine"]) and {"torch", "commit"} <= set(told["versions"])
    # Two processes side by side: what the cores did, whoever else wanted them.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30


def test_one_screen_and_the_exit_status(monkeypatch, capsys):
    findings = [
        Finding("python", "ok", "3.11"),
        Finding("worker", "fail", "RuntimeError: bus error " * 9, "num_workers=0"),
        Finding("disk", "warn", "0.1 GiB free", "make room"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda timeout: (findings, {"machine": {}}))
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "python", "3.11"] and max(map(len, lines)) <= 130
    assert any(line.startswith("FAIL  worker") for line in lines) and any("-> num_workers=0" in line for line in lines)
    assert lines[-1].startswith("training cannot work here: worker; see FAIL above")
    assert cli.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["training_works"] is False
    monkeypatch.setattr(doctor, "examine", lambda timeout: (findings[::2], {}))
    assert cli.main(["doctor"]) == 0
    assert "training works on this machine's CPU; 1 things worth mending" in capsys.readouterr().out


def broken(folder, name, text):
    """A folder for PYTHONPATH in which a package is broken."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return str(folder)


def test_a_broken_pytorch_is_a_finding(tmp_path):
    path = broken(tmp_path, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    done = run(PYTHONPATH=path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FAIL  pytorch"))
    assert "ImportError: libcudart.so.13: cannot open" in line
    assert "training cannot work here" in done.stdout and "pip install --force-reinstall" in done.stdout


@pytest.mark.slow
def test_a_library_that_kills_the_process_is_a_finding(tmp_path):
    findings, done = probed("libraries", PYTHONPATH=broken(tmp_path, "timm", "import os; os.kill(os.getpid(), 4)"))
    assert done.returncode == -4 and not findings
    path = os.environ.get("PYTHONPATH")
    try:
        os.environ["PYTHONPATH"] = str(tmp_path)
        found, _ = doctor.probe("libraries", 60)
    finally:
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path
    assert found[-1].status == "fail" and found[-1].found == "killed by signal 4"


def test_a_probe_that_hangs_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", broken(tmp_path, "torchvision", "import threading; threading.Event().wait()"))
    began = time.monotonic()
    found, _ = doctor.probe("libraries", 3)
    assert found == [Finding("libraries", "fail", "no answer within 3 s", found[0].advice)]
    assert time.monotonic() - began < 30


def test_a_broken_library_is_named_with_the_way_to_mend_it(tmp_path):
    findings, done = probed("libraries", PYTHONPATH=broken(tmp_path, "mmengine", "raise OSError('file too short')"))
    assert done.returncode == 0
    assert findings["mmengine"].status == "fail" and findings["mmengine"].found == "OSError: file too short"
    assert findings["mmengine"].advice.endswith("constraints.txt mmengine")


@pytest.mark.slow
def test_mmcv_that_is_compiled_is_told_from_ours(tmp_path):
    # A compiled module that lacks what the wrappers ask for: nothing of ours stands in for it.
    import mmcv

    (tmp_path / "site").mkdir()
    shutil.copytree(Path(mmcv.__file__).parent, tmp_path / "site" / "mmcv")
    (tmp_path / "site" / "mmcv" / "_ext.py").write_text("x = 1\n")
    findings, _ = probed("libraries", PYTHONPATH=str(tmp_path / "site"))
    failed = [one for one in findings.values() if one.status == "fail"]
    assert failed and "miss" in failed[0].found


@pytest.mark.slow
def test_a_missing_compiler_is_told(tmp_path):
    findings, _ = probed("training", PATH=str(tmp_path), CXX="", BESTIARY_CACHE=str(tmp_path))
    assert findings["compiler"].status == "warn" and "there is no C++ compiler" in findings["compiler"].found
    assert "install g++" in findings["compiler"].advice
    attention = findings["neighborhood_attention"]
    assert "cpu" not in attention.found.split(", ") and "there is no C++ compiler" in attention.advice


@pytest.mark.slow
def test_kernels_that_nobody_has_compiled_are_not_compiled_here(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    findings, _ = probed("training", BESTIARY_CACHE=str(tmp_path))
    assert "cpu is compiled at its first use" in findings["selective_scan"].found
    assert "selective_scan_cpu" in findings["kernels"].found and not list(tmp_path.rglob("*.so"))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting asks for root and unshare")
@one_day_in(4, 10)
def test_shared_memory_that_is_too_small_fails_the_worker():
    probe = f"{sys.executable} -m bestiary.tools.doctor_probe training"
    script = f"mount -t tmpfs -o size=4m tmpfs /dev/shm || exit 77; {probe}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines()) if "name" in one}
    assert found["step on the CPU"]["status"] == "ok"
    assert found["worker"]["status"] == "fail" and "num_workers=0" in found["worker"]["advice"]


@pytest.mark.parametrize(("free", "status"), [(63 << 20, "warn"), (8 << 30, "ok")])
def test_shared_memory(monkeypatch, tmp_path, free, status):
    (tmp_path / "dev/shm").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, free))
    found = doctor_machine.shared_memory(tmp_path)
    assert found.status == status and ("--shm-size" in found.advice) == (status == "warn")
    shutil.rmtree(tmp_path / "dev")
    assert doctor_machine.shared_memory(tmp_path).status == "warn"


def test_disks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "deep" / "cache"))
    (found,) = doctor_machine.disks()
    assert found.status == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 100 << 20))
    assert [one.status for one in doctor_machine.disks()] == ["warn"] * 3
    (tmp_path / "file").touch()
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "file" / "cache"))
    assert any("compiled kernels" in one.found and "cannot be written" in one.found for one in doctor_machine.disks())

    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(doctor_machine.tempfile, "gettempdir", none)
    (found,) = doctor_machine.disks()
    assert found.status == "fail" and "TMPDIR" in found.advice


def test_memory_of_the_machine_and_of_its_container(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable:  8388608 kB\n")
    assert doctor_machine.memory(tmp_path) == Finding("memory", "ok", "8.0 of 16.0 GiB free")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert doctor_machine.memory(tmp_path).status == "ok"
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{512 << 20}\n")
    found = doctor_machine.memory(tmp_path)
    assert found.status == "warn" and found.found.endswith("the container may use 0.5")
    assert doctor_machine.memory(tmp_path / "nowhere").status == "note"


def test_cores_that_are_granted(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    assert doctor_machine.processor(tmp_path).status == "ok"
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    found = doctor_machine.processor(tmp_path)
    assert found.status == "warn" and "the container grants 2" in found.found
    assert found.advice.startswith("export OMP_NUM_THREADS=2:")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert doctor_machine.processor(tmp_path).status == "ok"
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert doctor_machine.processor(tmp_path).advice.startswith("export OMP_NUM_THREADS=16:")


@pytest.mark.parametrize(
    ("soft", "status"), [(128, "fail"), (512, "warn"), (1024, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_open_files(monkeypatch, soft, status):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, 4096))
    found = doctor_machine.open_files()
    assert found.status == status and ("ulimit -n 4096" in found.advice) == (status != "ok")


def test_a_clock_that_is_wrong(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert doctor_machine.clock() == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: 1e8)
    assert "before bestiary was installed" in doctor_machine.clock()[0].found
    monkeypatch.setattr(time, "time", lambda: now + 60)
    (found,) = doctor_machine.clock()
    assert found.status == "warn" and "-60 s off" in found.found.replace("-59", "-60")


def test_a_locale_that_is_not_utf8():
    code = "from bestiary.tools import doctor_machine; print(doctor_machine.encoding())"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for environment, told in ((plain, True), (plain | {"PYTHONUTF8": "1"}, False), ({"LC_ALL": "C.UTF-8"}, False)):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
        )
        assert ("PYTHONUTF8=1" in done.stdout) == told, done.stdout + done.stderr


def versions(monkeypatch, **changed):
    real = importlib.metadata.version

    def version(name):
        if name.replace("-", "_") in changed:
            found = changed[name.replace("-", "_")]
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_packages(monkeypatch):
    monkeypatch.setattr(doctor_machine, "OPTIONAL", {})
    versions(monkeypatch, **{name.replace("-", "_"): version for name, version in doctor_machine.tested().items()})
    assert [one.name for one in doctor_machine.packages()] == ["versions"]
    versions(monkeypatch, timm="0.9.2", mmdet=None, regex="2030.1.1", mmcv="2.1.0")
    found = {one.found.split(":")[0]: one for one in doctor_machine.packages()}
    assert found["missing"].status == "fail" and found["missing"].advice == "pip install mmdet"
    assert "timm 0.9.2 (it takes >=1.0.20)" in found["out of range"].found
    assert found["out of range"].advice == "pip install 'timm>=1.0.20'"
    others = next(one for one in doctor_machine.packages() if one.name == "not as tested")
    assert others.status == "note" and f"regex 2030.1.1 (tests: {doctor_machine.tested()['regex']})" in others.found
    assert any(one.name == "mmcv" and one.status == "warn" for one in doctor_machine.packages())


def test_a_python_that_is_too_new(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 19, 0))
    found = doctor_machine.python()
    assert found.status == "fail" and "bestiary takes" in found.found


@pytest.mark.parametrize(
    ("version", "specifier", "right"),
    [
        ("2.14.1+cu130", ">=2.10", True), ("2.9.1", ">=2.10", False), ("2.1.0", ">=2.1,<2.2", True), ("1", "", True),
        ("2.2.0", ">=2.1,<2.2", False), ("2", ">=2.0.0", True), ("3.0rc1", "!=3", False), ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False), ("8", ">8", False), ("8.0", "==8", True), ("7.9", "<=8", True),
    ],
)  # fmt: skip
def test_ranges(version, specifier, right):
    assert doctor_machine.fits(version, specifier) == right
    if "rc" not in version:
        specifiers = pytest.importorskip("packaging.specifiers")  # the second opinion
        assert specifiers.SpecifierSet(specifier).contains(version) == right


def test_a_step_that_learns_nothing_is_none(monkeypatch):
    import torch

    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    found = doctor_probe.tried("step", lambda: doctor_probe.step(torch.device("cpu")), "advice")
    assert found.status == "fail" and "weights that are what they were" in found.found
