"""Jobs of two ranks of which one dies, in the ways and with the measures of `bestiary chaos ranks`."""

import json
import subprocess
import sys

import pytest

FROM_OUTSIDE = """
import json, sys
from pathlib import Path
from bestiary.tools import chaos_ranks
found = chaos_ranks.{call}
print(json.dumps(found))
"""


def run(call, tmp_path):
    """In a process of its own, which forks ranks: this one has computed, and its threads would be missing in them."""
    command = [sys.executable, "-c", FROM_OUTSIDE.format(call=call), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(one):
    from bestiary.tools.chaos_ranks import lost

    assert not lost(one), one
    assert one["statuses"][0] == 70 and one["said"]


@pytest.mark.slow
def test_a_rank_that_is_killed_while_the_other_waits(tmp_path):
    (one,) = run("deaths(Path(sys.argv[1]), ['is killed, the other waits for ever'], say=str)", tmp_path)
    check(one)


@pytest.mark.slow
def test_a_rank_dies_in_every_other_way(tmp_path):
    every = "[way for way in chaos_ranks.WAYS if 'for ever' not in way]"
    found = run(f"deaths(Path(sys.argv[1]), {every}, say=str)", tmp_path)
    assert len(found) == 5
    for one in found:
        check(one)


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(tmp_path):
    found = run("killed_rank(Path(sys.argv[1]), restarts=0)", tmp_path)
    assert found["status"] != 0 and found["named"] and found["seconds"] <= 30 and not found["began_again"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_rank_and_a_new_attempt(parallel, tmp_path):
    found = run(f"killed_rank(Path(sys.argv[1]), restarts=1, seed=1, parallel={parallel!r})", tmp_path)
    assert found["status"] == 0 and found["named"] and found["began_again"] == 1 and found["difference"] == 0.0
