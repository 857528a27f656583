"""kernels/dispatch.py: which backend serves, in the small."""

import pytest
import torch

from bestiary.errors import InputError
from bestiary.kernels import backends, dispatch, use_backend
from bestiary.kernels.dispatch import Backend, BackendStatus, Operator


@pytest.fixture
def sorting(monkeypatch):
    """An operator of three backends: one that this machine lacks, one that takes short lists, one for all."""
    monkeypatch.setattr(dispatch, "OPERATORS", {})
    monkeypatch.setattr(dispatch, "_forced", {})
    asked = []

    def unavailable():
        asked.append("network")
        return "there is no network here"

    names = {
        "network": Backend(sorted, lambda call: "it takes no empty list" if not call else None, unavailable),
        "bubble": Backend(sorted, lambda call: None if len(call) < 4 else f"it takes 3 entries, got {len(call)}"),
        "merge": Backend(sorted, lambda call: None),
    }
    operator = Operator("sorting", names)
    operator.asked = asked
    return operator


def test_the_first_that_can_serve(sorting):
    assert sorting.choose([3, 1]) == "bubble"
    assert sorting.choose([3, 1, 2, 5]) == "merge"


def test_the_machine_is_asked_only_where_the_call_would_be_served(sorting):
    assert sorting.why_not("network", []) == "it takes no empty list"
    assert sorting.asked == []
    assert sorting.why_not("network", [1]) == "there is no network here"


def test_an_order_of_its_own(sorting):
    ranked = Operator("sorting", sorting.backends, rank=lambda call: ("merge", "bubble"))
    assert ranked.choose([3, 1]) == "merge"
    assert ranked.choose([3, 1], "bubble") == "bubble"  # left out or behind, it is there by name


def test_a_name_insists(sorting):
    assert sorting.choose([3, 1], "merge") == "merge"
    with pytest.raises(InputError, match="sorting: backend 'bubble' cannot serve this call: it takes 3 entries, got 4"):
        sorting.choose([1, 2, 3, 4], "bubble")
    with pytest.raises(InputError, match="sorting: backend 'network' cannot serve this call: there is no network here"):
        sorting.choose([1], "network")
    with pytest.raises(InputError, match="sorting: no backend 'quick'; there are network, bubble, merge"):
        sorting.choose([1], "quick")


def test_the_list(sorting):
    lines = backends("sorting")
    assert lines[0] == BackendStatus("network", False, "there is no network here")
    assert lines[1:] == [BackendStatus("bubble", True, ""), BackendStatus("merge", True, "")]
    assert backends("sorting", [1, 2, 3, 4])[1] == BackendStatus("bubble", False, "it takes 3 entries, got 4")


def test_use_backend(sorting):
    Operator("selection", {"heap": Backend(min, lambda call: None), "merge": Backend(min, lambda call: None)})
    with use_backend("merge"):
        assert sorting.choose([1]) == "merge"
        with use_backend("bubble", "sorting"):
            assert sorting.choose([1]) == "bubble"
            assert dispatch.OPERATORS["selection"].choose([1]) == "merge"
        assert sorting.choose([1]) == "merge"
        assert sorting.choose([1], "bubble") == "bubble"
    with use_backend("heap"):  # which sorting does not have: it chooses as ever
        assert sorting.choose([1]) == "bubble"
        assert dispatch.OPERATORS["selection"].choose([1]) == "heap"
    assert sorting.choose([1]) == "bubble"


def test_a_forced_backend_is_let_go_by_an_error(sorting):
    with pytest.raises(KeyError), use_backend("merge", "sorting"):
        raise KeyError
    assert dispatch._forced == {}


def test_use_backend_refuses_names_that_are_not_there(sorting):
    with pytest.raises(InputError, match="no backend 'quick'; there are bubble, merge, network"):
        with use_backend("quick"):
            pass
    with pytest.raises(InputError, match="no operator 'hashing'; there are sorting"):
        with use_backend("merge", "hashing"):
            pass
    assert dispatch._forced == {}


def test_plans_are_forgotten_when_a_force_comes_and_goes(sorting):
    sorting.plans["key"] = "plan"
    with use_backend("merge"):
        assert sorting.plans == {}
        sorting.plans["key"] = "plan"
    assert sorting.plans == {}


@pytest.mark.parametrize(
    ("text", "forced"),
    [
        ("", {}),
        ("cpu", {"": "cpu"}),
        ("sorting=merge", {"sorting": "merge"}),
        (" cpu , sorting = merge,", {"": "cpu", "sorting": "merge"}),
    ],
)
def test_the_environment_variable_is_read(text, forced):
    assert dispatch._read_environment(text) == forced


def test_the_environment_variable_forces(sorting, monkeypatch):
    monkeypatch.setattr(dispatch, "_forced", dispatch._read_environment("sorting=merge"))
    assert sorting.choose([1]) == "merge"
    monkeypatch.setattr(dispatch, "_forced", dispatch._read_environment("quick"))
    with pytest.raises(InputError, match="BESTIARY_BACKEND: no backend 'quick'; there are bubble, merge, network"):
        sorting.choose([1])


def test_a_choice_inside_compiled_code(sorting):
    def chosen(x):
        return x + len(sorting.choose([1, 2]))

    torch._dynamo.reset()
    compiled = torch.compile(chosen, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)).item() == len("bubble")
    with use_backend("merge", "sorting"):
        assert compiled(torch.zeros(1)).item() == len("merge")
