"""kernels/build.py: one build for all who want it, found again by what went into it, and words where there is none."""

import ctypes
import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shares import one_day_in

from bestiary.errors import InputError
from bestiary.kernels import build

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="there is no C++ compiler")

SOURCE = '#include "answer.h"\nextern "C" int answer() { return ANSWER + PLUS; }\n'
LIBRARY = build.Library("answer", (build.Unit("answer.cpp", ("-DPLUS=1",)),), depends=("*.h",))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sources and a cache of our own."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "answer.cpp").write_text(SOURCE)
    (tmp_path / "sources" / "answer.h").write_text("#define ANSWER 41\n")
    monkeypatch.setattr(build, "HERE", tmp_path / "sources")
    monkeypatch.setitem(build.LIBRARIES, "answer", LIBRARY)
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    build.unavailable.cache_clear()
    yield tmp_path
    build.unavailable.cache_clear()


def answer(path: Path) -> int:
    return ctypes.CDLL(str(path)).answer()


def logging_compiler(folder: Path, seconds: float = 0.0) -> Path:
    """A compiler that notes every file that it compiles in folder/compiled, after some seconds."""
    program = folder / "compiler"
    program.write_text(
        f'#!/bin/sh\ncase " $* " in *" -c "*) echo compiled >> {folder}/compiled; sleep {seconds};; esac\n'
        f'exec {build.compiler()} "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_a_library_is_compiled_once_and_works(folder, monkeypatch):
    monkeypatch.setenv("CXX", str(logging_compiler(folder)))
    path = build.build(LIBRARY)
    assert path == build.library_path(LIBRARY) and path.is_relative_to(folder / "cache" / "kernels")
    assert answer(path) == 42
    assert build.build(LIBRARY) == path
    assert (folder / "compiled").read_text().split() == ["compiled"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["answer.so", "lock"]  # nothing else is left


def test_whatever_goes_in_makes_another_build(folder, monkeypatch):
    paths = [build.library_path(LIBRARY)]
    paths.append(build.library_path(LIBRARY._replace(units=(build.Unit("answer.cpp", ("-DPLUS=2",)),))))
    (folder / "sources" / "answer.h").write_text("#define ANSWER 6\n")
    paths.append(build.library_path(LIBRARY))
    (folder / "sources" / "answer.cpp").write_text(SOURCE + "\n")
    paths.append(build.library_path(LIBRARY))
    monkeypatch.setattr("torch.__version__", "2.99.0")
    paths.append(build.library_path(LIBRARY))
    monkeypatch.setattr(build, "_version", lambda program: "another compiler")
    paths.append(build.library_path(LIBRARY))
    assert len(set(paths)) == len(paths)


def test_the_same_makes_the_same(folder):
    path = build.library_path(LIBRARY)
    (folder / "sources" / "answer.h").write_text("#define ANSWER 41\n")
    (folder / "sources" / "other.cpp").write_text("not a part of it")
    assert build.library_path(LIBRARY) == path


PROCESS = """
import sys
from pathlib import Path
from bestiary.kernels import build

build.HERE = Path(sys.argv[1])
print(build.build(build.Library("answer", (build.Unit("answer.cpp", ("-DPLUS=1",)),), depends=("*.h",))))
"""


@one_day_in(4, 19)
def test_processes_wait_for_one_build(folder, monkeypatch):
    monkeypatch.setenv("CXX", str(logging_compiler(folder, 1.5)))
    lock = build.library_path(LIBRARY).parent / "lock"
    command = [sys.executable, "-c", PROCESS, str(folder / "sources")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    found = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], found
    assert [out.strip() for out, _ in found] == [str(build.library_path(LIBRARY))] * 2
    assert (folder / "compiled").read_text().split() == ["compiled"]
    assert sum("compiling answer, once" in err for _, err in found) == 1
    assert lock.exists()


def test_a_second_process_says_that_it_waits(folder, monkeypatch, caplog):
    monkeypatch.setenv("CXX", str(logging_compiler(folder, 2)))
    process = subprocess.Popen([sys.executable, "-c", PROCESS, str(folder / "sources")], stdout=subprocess.PIPE)
    until = time.monotonic() + 60
    while not (folder / "compiled").exists() and time.monotonic() < until:
        time.sleep(0.05)
    with caplog.at_level(logging.WARNING, "bestiary.kernels"):
        path = build.build(LIBRARY)
    process.communicate(timeout=60)
    assert caplog.messages == ["waiting for the process that compiles answer"]
    assert answer(path) == 42 and (folder / "compiled").read_text().split() == ["compiled"]


def test_what_a_killed_process_left_does_not_disturb(folder):
    parent = build.library_path(LIBRARY).parent
    parent.mkdir(parents=True)
    (parent / "lock").write_text("")
    (parent / "tmpabc").mkdir()
    (parent / "tmpabc" / "answer.so").write_text("half a library")
    assert answer(build.build(LIBRARY)) == 42


def test_a_compiler_that_fails_says_why(folder, caplog):
    (folder / "sources" / "answer.h").write_text("#define ANSWER no_such_name\n")
    with pytest.raises(InputError, match="answer: the compiler failed: .*no_such_name.* was not declared"):
        build.build(LIBRARY)
    with caplog.at_level(logging.WARNING, "bestiary.kernels"):
        assert "no_such_name" in build.unavailable("answer")
        assert "no_such_name" in build.unavailable("answer")
    assert sum("answer is not used: answer: the compiler failed" in line for line in caplog.messages) == 1
    assert not build.library_path(LIBRARY).exists()


def test_a_cache_that_cannot_be_written_is_a_reason(folder, monkeypatch, capsys):
    (folder / "file").write_text("")
    monkeypatch.setenv("BESTIARY_CACHE", str(folder / "file"))
    assert "Not a directory" in build.unavailable("answer")
    assert build.main(["answer"]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_a_compiler_that_is_not_there_is_named(folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.unavailable("answer") == "answer: CXX is 'no-such-compiler', no such program"


def test_a_library_is_loaded_at_its_first_use(folder):
    assert build.unavailable("answer") is None
    assert build.library_path(LIBRARY).exists()


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.delenv("BESTIARY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert build.cache_folder() == Path("/somewhere/bestiary")
    monkeypatch.setenv("BESTIARY_CACHE", "/elsewhere")
    assert build.cache_folder() == Path("/elsewhere")


def test_the_command_prints_paths_and_reasons(folder, monkeypatch, capsys):
    monkeypatch.setattr(
        build, "LIBRARIES", {"answer": LIBRARY, "other": LIBRARY._replace(name="other", needs_nvcc=True)}
    )
    monkeypatch.setattr(build, "cuda_home", lambda: None)
    assert build.main([]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        f"answer: {build.library_path(LIBRARY)}",
        "other: left out, there is no nvcc: install the CUDA toolkit, or set CUDA_HOME",
    ]
    assert build.main(["other"]) == 1  # asked for by name it is not left out
    assert capsys.readouterr().err == "other: there is no nvcc: install the CUDA toolkit, or set CUDA_HOME\n"
    with pytest.raises(SystemExit):
        build.main(["third"])
    assert "no library 'third'; there are answer, other" in capsys.readouterr().err


def test_the_command_as_it_is_called(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bestiary.kernels.build", "no_such_library"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no library 'no_such_library'; there are bi_level_routing_cpu, neighborhood_attention_cpu" in done.stderr
    assert "Warning" not in done.stderr


REFERENCE_ONLY = """
import torch
from bestiary.kernels import backends, neighborhood_attention

q, k, v = (torch.randn(2, 5, 6, 2, 8) for _ in range(3))
for dilation in 1, 2:
    out = neighborhood_attention(q, k, v, 2, dilation)
    assert torch.equal(out, neighborhood_attention(q, k, v, 2, dilation, backend="reference"))
print({line.name: line.reason for line in backends("neighborhood_attention")}["cpu"])
"""


def test_without_a_compiler_the_reference_serves_and_one_line_says_so(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "PATH", "BESTIARY_BACKEND")}
    environment |= {"PATH": "", "BESTIARY_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE_ONLY], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    reason = "neighborhood_attention_cpu: there is no C++ compiler: install g++, or set CXX"
    assert done.stdout.strip() == reason
    assert done.stderr.splitlines() == [f"neighborhood_attention_cpu is not used: {reason}"]
