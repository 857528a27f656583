"""Reads what wandb wrote offline: records of its protobuf in a log of blocks, the form of LevelDB's logs."""

import json
import struct
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7  # bytes; a record's header is checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path):
    """The records of a `.wandb` file, in order."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, begun = HEADER, b""  # the file begins with a header of that length, too
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # too little left in the block for another
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        begun += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(begun)
            begun = b""


def _key(item) -> str:
    return item.key or "/".join(item.nested_key)


class Written:
    """What a run holds: `id`, `project`, `config`, `rows` (a dict each), `metrics` (name: its axis), `artifacts`."""

    def __init__(self, folder: Path) -> None:
        self.rows, self.config, self.metrics, self.artifacts = [], {}, {}, []
        self.id = self.project = None
        self.ended = False
        for record in records(next(folder.glob("*.wandb"))):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project = record.run.run_id, record.run.project
                self._configure(record.run.config)
            elif kind == "config":
                self._configure(record.config)
            elif kind == "history":
                row = {_key(item): json.loads(item.value_json) for item in record.history.item}
                self.rows.append(row)
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            elif kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
                found = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
                self.artifacts.append((list(found.aliases), [entry.path for entry in found.manifest.contents]))
            elif kind == "exit":
                self.ended = True

    def _configure(self, config) -> None:
        self.config |= {_key(item): json.loads(item.value_json) for item in config.update}
