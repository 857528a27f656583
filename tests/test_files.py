"""Files are whole or not there, whatever happens while they are written."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from mmengine.fileio import dump
from mmengine.runner import save_checkpoint

from bestiary.files import PART, is_full, whole_file, write_text


@pytest.fixture
def small_files():
    """Files of this process may have 100 kB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old" and list(tmp_path.glob(f"*{PART}"))
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["notes.txt"]


def test_an_error_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["notes.txt"]


def test_no_room_for_a_checkpoint(tmp_path, small_files):
    """torch's writer hides the reason; what comes out names it, and the checkpoint before is as it was."""
    path = tmp_path / "epoch_1.pth"
    save_checkpoint(dict(state_dict=dict(weight=torch.arange(100.0))), str(path))
    before = path.read_bytes()
    with pytest.raises(OSError) as caught:
        save_checkpoint(dict(state_dict=dict(weight=torch.rand(100_000))), str(path))
    assert is_full(caught.value) and caught.value.errno == errno.EFBIG
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["epoch_1.pth"]


def test_mmengine_writes_so(tmp_path, small_files):
    path = tmp_path / "found.json"
    dump([1, 2], path)
    with pytest.raises(OSError):
        dump(list(range(50_000)), path)
    assert path.read_text() == "[1, 2]"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torch.zeros(3), path)
    program = (
        "import os, signal, sys\nfrom bestiary.files import whole_file\n"
        "with whole_file(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert torch.equal(torch.load(path), torch.zeros(3)) and list(tmp_path.glob(f"*{PART}"))
