"""Make one file of a sharded checkpoint: bestiary merge FOLDER WEIGHTS.safetensors"""

import sys

from bestiary.checkpoints.writing import SUFFIXES, need_suffix, write_weights
from bestiary.engine.launch import run_guarded
from bestiary.engine.parallel.folder import merged
from bestiary.tools.convert import count
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, merge, print; returns the exit status."""
    parser = command_parser("merge", __doc__)
    parser.add_argument("source", metavar="FOLDER", help="checkpoint of a run with parallel='fsdp'")
    parser.add_argument("destination", metavar="FILE", help=f"to write; its suffix says how: {', '.join(SUFFIXES)}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: merge(args.source, args.destination), args.debug)


def merge(source: str, destination: str) -> None:
    """Check every byte of `source` and write its weights and buffers, those of the first rank, to `destination`.

    Raises:
        InputError: a damaged checkpoint, or none; the file cannot be written.
    """
    need_suffix(destination)
    weights = merged(source)
    write_weights(destination, weights)
    print(f"{destination}: {count(weights)}")


if __name__ == "__main__":
    sys.exit(main())
