"""The console command `bestiary`: looks up the command and hands its arguments on."""

import difflib
import importlib
import os
import sys

from bestiary.tools.parsers import command_parser

COMMANDS = {  # name: what it does; the module bestiary.tools.NAME has its main(argv)
    "train": "train a model from a config",
    "test": "evaluate a checkpoint on the config's test data",
    "infer": "run a checkpoint on pictures: drawn pictures and a JSON of predictions",
    "data": "make the bundled data set, or check one of yours",
    "quickstart": "train and evaluate a detector, a segmentor and a classifier on the bundled data",
    "ablate": "train one body with each token mixer in turn, and compare them in a table",
    "merge": "make one file of weights of a sharded checkpoint",
    "convert": "rename weights between our keys, timm's and the authors'",
    "check": "look for every mistake in a config and its data before it trains",
    "check_configs": "try configs without their data: a training step and a prediction of each",
    "report": "make the HTML page of a training: curves, classes, pictures, config and machine",
    "card": "write and check model cards, or make one of a model that you have trained",
    "flops": "parameters and multiply-adds of a config's model",
    "compare": "set backbones side by side: size, speed, memory and accuracy, in a table and a plot",
    "benchmark": "measure speed and memory on this machine",
    "chaos": "break training runs on purpose, and measure what is lost",
    "doctor": "say what this machine can do, try a training step, and what to do about each shortcoming",
    "list": "names of the backbones, all or those that fit a pattern",
}


def main(argv: list[str] | None = None) -> int:
    """Run `bestiary COMMAND ...`; returns the exit status. A command's module is imported when it is called."""
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `bestiary list | head`: nobody reads on, which is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends
        return 1


def run(argv: list[str]) -> int:
    """The command that `argv` names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from bestiary import __version__

        print(f"bestiary {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        print(f"error: no command {command!r}{hint}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if command == "list":
        return list_backbones(rest)
    return importlib.import_module(f"bestiary.tools.{command}").main(rest)


def usage() -> str:
    """The commands, one a line."""
    lines = [f"  {name:10s} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        ["usage: bestiary COMMAND ...", "", *lines, "", "`bestiary COMMAND --help` tells what a command takes."]
    )


def list_backbones(argv: list[str]) -> int:
    """`bestiary list [PATTERN]`."""
    parser = command_parser("list", "Names of the backbones, one a line.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, as 'poolformer*'")
    pattern = parser.parse_args(argv).pattern
    import bestiary

    names = bestiary.list_backbones(pattern)
    if not names:
        near = difflib.get_close_matches(pattern, bestiary.list_backbones("*"), n=3, cutoff=0.4)
        hint = f" (near it: {', '.join(near)})" if near and not any(c in pattern for c in "*?[") else ""
        print(f"error: no backbone fits {pattern!r}{hint}", file=sys.stderr)
        return 1
    print("\n".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
