"""Tables of scores as text, for the log."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def as_text(tables: Sequence[Table], width: int = 120) -> str:
    """The tables one below the other, without colours, in lines of at most `width` characters."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for table in tables:
        console.print(table)
    return console.file.getvalue()
