"""Loops over files that show their progress where somebody watches."""

import pytest

from bestiary.inputs.prepare.shards import write_shards
from bestiary.inputs.watched import watched, watching


def test_items_go_through_the_watch_and_only_inside_it():
    seen = []

    def watch(items, what):
        seen.append((len(items), what))
        return reversed(items)

    with watching(watch):
        assert list(watched((n for n in range(3)), "files")) == [2, 1, 0]
    assert seen == [(3, "files")] and list(watched([1], "files")) == [1]
    with pytest.raises(RuntimeError), watching(watch):
        raise RuntimeError
    assert list(watched([1, 2], "files")) == [1, 2]


def test_a_loop_of_the_prepare_room_is_watched(tmp_path):
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "0.png").write_bytes(b"x")
    seen = []
    with watching(lambda items, what: seen.append((what, len(items))) or items):
        write_shards(str(tmp_path / "pictures"), str(tmp_path / "out"), "train")
    assert seen == [("pictures", 2)]
