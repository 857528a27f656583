"""Tables of measured orders of backends: which one holds, what breaks them, what the choice makes of them."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bestiary.kernels import neighborhood_attention, tuning
from bestiary.kernels.neighborhood_attention import dispatch
from bestiary.kernels.neighborhood_attention.arguments import check

NAME = "neighborhood_attention"


def forget():
    tuning.order.cache_clear()
    tuning._entries.cache_clear()
    dispatch.OPERATOR.plans.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a process that has read no table."""
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path)  # not by the environment: builds stay where they are
    monkeypatch.setattr(tuning, "shipped_table", lambda operator: tmp_path / "shipped.json")
    forget()
    yield tmp_path
    forget()


def a_call(length=9, kernel=9, **changes):
    q = torch.randn(2, length, 3, 8)
    return check(q, q, q, kernel, 1, 1, False, None, None, None, None, False, False, False)._replace(**changes)


def test_buckets():
    assert [tuning.bucket(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 3136)] == [0, 0, 1, 2, 2, 3, 3, 4, 12]


def test_kinds_of_calls():
    call = a_call()
    assert dispatch.kind(call) == "cpu float32 forward 1d tokens4 keys4 channels3 heads3"
    other = call._replace(dtype=torch.bfloat16, needs_grad=True, spatial=(56, 56), channels=32, heads=4, batch=128)
    other = other._replace(window=other.window._replace(kernel_size=(7, 7)))
    assert dispatch.kind(other) == "cpu bfloat16 backward 2d tokens12 keys6 channels5 heads9"


def test_nothing_measured_means_the_rule(cache):
    call = a_call()
    assert tuning.order(NAME, dispatch.kind(call)) == ()
    assert dispatch.rank(call) == ("cpu", "reference")


def test_the_users_table_goes_before_the_shipped_one(cache):
    call = a_call()
    kind = dispatch.kind(call)
    tuning.write(cache / "shipped.json", {kind: {"cpu": 3.0, "sdpa": 2.0}, "other": {"cpu": 1.0}}, {})
    assert tuning.order(NAME, kind) == ("sdpa", "cpu")
    assert dispatch.OPERATOR.choose(call) == "sdpa"
    tuning.write(tuning.user_table(NAME), {kind: {"reference": 1e-3, "cpu": 2e-3, "sdpa": 3e-3}}, {})
    assert tuning.order(NAME, kind) == ("sdpa", "cpu"), "one process, one answer"
    forget()
    assert tuning.order(NAME, kind) == ("reference", "cpu", "sdpa") and tuning.order(NAME, "other") == ("cpu",)
    assert dispatch.OPERATOR.choose(call) == "reference"


def test_what_was_measured_is_used_by_calls(cache):
    q = torch.randn(2, 9, 3, 8)
    tuning.write(tuning.user_table(NAME), {dispatch.kind(a_call()): {"sdpa": 1e-6, "reference": 1e-3}}, {})
    wanted = neighborhood_attention(q, q, q, 9, backend="reference")
    assert (neighborhood_attention(q, q, q, 9) - wanted).abs().max() < 1e-5
    names = [plan[0] for plan in dispatch.OPERATOR.plans.values()]
    assert names == ["reference", "sdpa"]


def test_backends_that_cannot_serve_or_are_not_there_are_passed_over(cache):
    call = a_call(kernel=3)
    tuning.write(tuning.user_table(NAME), {dispatch.kind(call): {"sdpa": 1e-6, "warp": 1e-5, "reference": 1e-3}}, {})
    assert dispatch.rank(call)[:2] == ("sdpa", "reference")
    assert dispatch.OPERATOR.choose(call) == "reference"


def test_sdpa_is_not_chosen_where_a_second_derivative_may_be_wanted(cache):
    call = a_call(needs_grad=True)
    tuning.write(tuning.user_table(NAME), {dispatch.kind(call): {"sdpa": 1e-6, "reference": 1e-3}}, {})
    assert dispatch.OPERATOR.choose(call) == "reference"


def test_writing_adds_to_the_table(cache):
    path = tuning.user_table(NAME)
    tuning.write(path, {"a": {"cpu": 1.0}, "b": {"cpu": 1.0}}, {"cpu": "one"})
    tuning.write(path, {"b": {"sdpa": 2.0}}, {"cpu": "another"})
    assert tuning.read(path) == {"a": {"cpu": 1.0}, "b": {"sdpa": 2.0}}
    assert json.loads(path.read_text())["machine"] == {"cpu": "another"}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


BROKEN = {
    "half a file": ('{"format": 1, "ent', "it cannot be read"),
    "not text": (b"\xff\xfe\x00\x01", "it cannot be read"),
    "no table": ("[1, 2]", "it is no table of format 1"),
    "another format": ('{"format": 2}', "it is no table of format 1"),
    "no entries": ('{"format": 1, "measured_with": {}}', "measured_with or entries is missing"),
    "no seconds": ('{"format": 1, "measured_with": {}, "entries": {"a": {"cpu": "fast"}}}', "entry 'a' is not seconds"),
    "negative": ('{"format": 1, "measured_with": {}, "entries": {"a": {"cpu": -1}}}', "entry 'a' is not seconds"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_told_once_and_ignored(cache, caplog, content, reason):
    path = tuning.user_table(NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING, logger="bestiary.kernels"):
        for length in (5, 9, 17):
            q = torch.randn(1, length, 1, 4)
            assert neighborhood_attention(q, q, q, 3).shape == q.shape
    told = [record.getMessage() for record in caplog.records if "is ignored" in record.getMessage()]
    assert len(told) == 1 and str(path) in told[0] and reason in told[0]
    tuning.write(path, {"a": {"cpu": 1.0}}, {})
    assert tuning.read(path) == {"a": {"cpu": 1.0}}


def test_a_table_of_another_pytorch_is_told_and_ignored(cache, caplog, monkeypatch):
    path = tuning.user_table(NAME)
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "measured_with", lambda: {"torch": "1.0"})
        tuning.write(path, {"a": {"cpu": 1.0}}, {})
    with caplog.at_level(logging.WARNING, logger="bestiary.kernels"):
        assert tuning.order(NAME, "a") == ()
    assert f"measured with torch 1.0 and this is {torch.__version__}" in caplog.text
    tuning.write(path, {"b": {"cpu": 1.0}}, {})
    assert tuning.read(path) == {"b": {"cpu": 1.0}}, "old figures do not stay under the new version's name"


def test_a_table_that_may_not_be_read_is_ignored(cache, caplog):
    tuning.user_table(NAME).mkdir(parents=True)  # a folder where the file should be
    assert tuning.order(NAME, "a") == () and "cannot be read" in caplog.text


def test_writers_at_the_same_time_leave_a_whole_table(cache):
    path = tuning.user_table("x")

    def work(name):
        for i in range(100):
            tuning.write(path, {f"{name} {i % 3}": {"cpu": 1.0}}, {})

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(work, name) for name in ("one", "two")]
        while not all(writer.done() for writer in writers):
            if path.exists():
                assert json.loads(path.read_text())["format"] == tuning.FORMAT
        assert [writer.result() for writer in writers] == [None, None]


def test_the_shipped_table_is_one():
    entries = tuning.read(tuning.shipped_table(NAME))
    assert entries and all(set(seconds) <= set(dispatch.BACKENDS) for seconds in entries.values())


def test_device_classes(monkeypatch):
    assert tuning.device_class("cpu") == "cpu" and tuning.device_class("meta") == "meta"
    properties = type("Properties", (), dict(major=9, minor=0, gcnArchName="gfx942:sramecc+:xnack-"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert tuning.device_class.__wrapped__("cuda", 0) == "sm_90"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert tuning.device_class.__wrapped__("cuda", 1) == "gfx942"
