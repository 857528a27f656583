"""How the commands explain themselves: what they do, and examples that can be copied."""

import argparse
import textwrap
from collections.abc import Sequence

WIDTH = 100  # columns, of what argparse does not wrap itself


def command_parser(name: str, doc: str, examples: Sequence[str], epilog: str = "") -> argparse.ArgumentParser:
    """The parser of `bestiary NAME`, whose --help ends in examples.

    Args:
        name: of the command, with that of its part where it has several: 'benchmark kernels'.
        doc: the module's docstring; what comes after the first paragraph is shown, too.
        examples: whole commands; a test parses each of them.
        epilog: words before the examples.
    """
    description = "\n\n".join(_filled(paragraph) for paragraph in doc.strip().split("\n\n"))
    return argparse.ArgumentParser(
        prog=f"bestiary {name}",
        description=description,
        epilog="\n\n".join([_filled(epilog)] * bool(epilog) + [examples_of(examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def examples_of(examples: Sequence[str]) -> str:
    """The last words of a --help."""
    return "\n".join(["examples:", *(f"  {line}" for line in examples)])


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH)
