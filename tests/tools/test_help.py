"""What the commands tell of themselves: examples that parse, in a terminal and without one, and at once."""

import argparse
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import in_terminal

from bestiary.tools import benchmark, cli
from bestiary.tools.parsers import EXAMPLES

# Those that have parts, each with a --help of its own.
PARTS = {"data": ("digits", "check", "verify", "prepare", "unpack"), "benchmark": tuple(benchmark.SUBJECTS)}
NAMES = [*cli.COMMANDS, *(f"{name} {part}" for name, parts in PARTS.items() for part in parts)]


class Parsed(Exception):
    """The arguments were understood."""


def shown(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_help_has_examples_and_each_parses(name, monkeypatch, capsys):
    text = shown(capsys, *name.split())
    assert text.startswith(f"usage: bestiary {name}")
    before, _, after = text.partition("examples:\n")
    assert max(map(len, before.splitlines())) <= 120
    # What two blanks set off from a command is a remark.
    found = [line.split("  ")[0].strip() for line in map(str.strip, after.splitlines()) if line.startswith("bestiary ")]
    assert found and all(line.startswith(f"bestiary {name.split()[0]}") for line in found), after
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None, namespace=None):
        arguments = parse(parser, argv, namespace)
        if parser.prog == "bestiary benchmark":  # it hands the rest on
            return arguments
        raise Parsed(arguments)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    for line in found:
        words = shlex.split(line.split(" > ")[0])[1:]
        with pytest.raises(SystemExit if "--help" in words else Parsed) as ended:
            cli.main(words)
        assert ended.type is Parsed or ended.value.code == 0, line


def test_no_example_is_of_a_command_that_is_not_there():
    assert set(EXAMPLES) <= set(NAMES)


def used_by(command, **how):
    """Seconds of the processor that a command takes, which do not count while others have it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, **how)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_comes_within_a_second():
    command = [str(Path(sys.executable).parent / "bestiary"), "--help"]
    done, seconds = used_by(command)
    assert done.returncode == 0 and "compare" in done.stdout, done.stderr
    assert seconds < 1.0


BESTIARY = [sys.executable, "-m", "bestiary.tools.cli"]


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["doctor", "--help"], ["--version"]], ids=" ".join)
def test_help_in_a_terminal_and_without_one(words):
    piped = subprocess.run([*BESTIARY, *words], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    shown, status = in_terminal([*BESTIARY, *words])
    assert piped.returncode == status == 0 and not piped.stderr
    assert shown.replace("\r\n", "\n") == piped.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_help_in_a_terminal_and_without_one(name):
    test_help_in_a_terminal_and_without_one([*name.split(), "--help"])


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen([*BESTIARY, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
