"""The measurements kept under model_cards/: each says by what, of which commit and versions, on what machine."""

import json
import re
from pathlib import Path

import pytest

from bestiary.tools import benchmark
from bestiary.tools.machine import NOT_MEASURED

CARDS = Path(__file__).resolve().parents[2] / "model_cards"
RECORDS = sorted(path for path in CARDS.glob("*/*.json") if path.parent.name != "data")
TOOLS = {*(f"bench_{name}" for name in benchmark.SUBJECTS), "bench_operators", "chaos", "compare"}


def test_there_are_records_of_every_tool():
    found = {json.loads(path.read_text(encoding="utf-8"))["tool"] for path in RECORDS}
    assert found == TOOLS


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_record_says_where_it_comes_from(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record)[:4] == ["tool", "arguments", "machine", "versions"] and record["results"]
    assert {"cpu", "family", "cores", "vectors", "memory_gb", "system", "when"} <= set(record["machine"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", record["machine"]["when"])
    versions = record["versions"]
    assert {"bestiary", "commit", "python", "torch", "triton", "natten", "cuda", "compiler"} <= set(versions)
    assert re.fullmatch(r"[0-9a-f]{40}( and changes)?", versions["commit"])
    assert not set(NOT_MEASURED) & set(record["arguments"])
    # Files are named after the processor and, where it is said, the threads that they were measured with.
    threads = re.search(r"_(\d)-threads?\.json", path.name)
    assert "cpu_" in path.name and (threads is None or int(threads[1]) == record["arguments"]["threads"])
