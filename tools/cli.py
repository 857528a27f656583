"""The console command `bestiary`: looks up the command and hands its arguments on."""

import argparse
import difflib
import importlib
import sys

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
    "flops": "parameters and multiply-adds of a config's model",
    "benchmark": "measure speed and memory on this machine",
    "chaos": "break training runs on purpose, and measure what is lost",
    "list": "names of the backbones, all or those that fit a pattern",
}


def main(argv: list[str] | None = None) -> int:
    """Run `bestiary COMMAND ...`; returns the exit status. A command's module is imported when it is called."""
    argv = sys.argv[1:] if argv is None else argv
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
    parser = argparse.ArgumentParser(prog="bestiary list", description="Names of the backbones, one a line.")
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
