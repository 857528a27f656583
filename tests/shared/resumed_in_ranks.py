"""Runs of two ranks that are stopped by a signal in the middle of an epoch, and at an epoch's end, and gone on with.

FOLDER KIND...: prints a JSON of the largest difference to the run without a break, for each kind of `parallel`.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from bestiary.checkpoints.writing import write_weights
from bestiary.engine.parallel import folder
from bestiary.engine.training import loops
from bestiary.tools import chaos_runs as runs

KINDS = {
    "ddp": "ddp",
    "zero1": "zero1",
    "fsdp": "fsdp",
    "full": dict(type="fsdp", checkpoint="full"),
}
STOP = 4  # iterations: an epoch has 3, the second is then under way, and gradients are being accumulated


def stop_after(iteration):
    """To be called in a rank: the first one is asked to stop when so many iterations are done."""
    step = loops._ExactLoop.step

    def step_and_ask(self, *args):
        if self._iter == iteration and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, *args)

    loops._ExactLoop.step = step_and_ask


def train(out, name, *argv, prepare=None, status=0):
    """A run of two ranks in `out`/`name`."""
    log = out / f"{name}.log"
    argv = [out / "config.py", "--work-dir", out / name, *argv]
    done = runs.wait(runs.start(argv, log, ranks=2, prepare=prepare))
    assert done == [status, status], f"{name}: {done}\n{runs.tail(log, 60)}"


def final(work_dir):
    """All tensors of the last checkpoint, whatever its form."""
    path = next(work_dir.glob("epoch_4.*"))
    if path.is_file():
        return runs.newest(work_dir)
    reader = folder.dcp.HuggingFaceStorageReader(str(path))
    entries = {k: torch.empty(e.size, dtype=e.properties.dtype) for k, e in folder._read_headers(reader).items()}
    folder.dcp.load(entries, storage_reader=reader, no_dist=True)
    return {"state_dict": entries}


def differences(out, kind):
    """Of a run stopped in mid-epoch, and of one begun again from the checkpoint of an epoch's end."""
    found = {}
    pictures = runs.make_pictures(out)
    options = dict(train_dataloader__batch_size=5, parallel=KINDS[kind])
    runs.write_config(out / "config.py", pictures, ("dropout", "augmentation", "mixup", "accumulation"), **options)
    train(out, "whole")
    expected = final(out / "whole")
    train(out, "stopped", prepare=lambda: stop_after(STOP), status=75)
    assert any(path.name.startswith("interrupted_iter_") for path in (out / "stopped").iterdir())
    train(out, "stopped", "--resume")
    found["mid-epoch"] = runs.difference(expected, final(out / "stopped"))
    left = sorted(path.name for path in (out / "stopped").iterdir())
    found["left over"] = [name for name in left if name.startswith("interrupted") or name.endswith(".part")]
    shutil.copytree(out / "whole", out / "again")
    for path in (*(out / "again").glob("epoch_[34].*"), out / "again" / "last_checkpoint"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train(out, "again", "--resume")
    found["epoch end"] = runs.difference(expected, final(out / "again"))
    found["tensors"] = len(runs.tensors(expected))
    if kind == "fsdp":
        write_weights(out / "merged.safetensors", folder.merged(out / "whole" / "epoch_4.sharded"))
    return found


if __name__ == "__main__":
    seen = {}
    for name in sys.argv[2:]:
        (place := Path(sys.argv[1]) / name).mkdir()
        seen[name] = differences(place, name)
    print(json.dumps(seen))
