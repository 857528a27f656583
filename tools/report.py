"""Make the page of a training: curves, classes, pictures, config and machine in one HTML file."""

import sys
from pathlib import Path

from rich.console import Console

from bestiary.engine.launch import run_guarded
from bestiary.errors import InputError
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, make, print; returns the exit status."""
    parser = command_parser("report", __doc__)
    parser.add_argument("work_dir", help="where `bestiary train` wrote, or a folder of such; also one that still runs")
    parser.add_argument("--out", metavar="FILE", help="the page; WORK_DIR/report.html if left out")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: report(args.work_dir, args.out), args.debug)


def report(work_dir: str, out: str | None = None) -> Path:
    """Write the page, saying how far it is.

    Raises:
        InputError: there is no run; the page cannot be written.
    """
    from bestiary.engine.report import PAGE
    from bestiary.engine.report.page import write_report

    path = Path(out) if out else Path(work_dir) / PAGE
    if path.is_dir():
        raise InputError(f"{path}: a folder; give --out the name of a file, as {path / PAGE}")
    console = Console()
    try:
        if console.is_terminal:
            with console.status("reading the runs") as status:
                write_report(work_dir, path, lambda what, k, n: status.update(f"{k} of {n} runs done: {what}"))
        else:
            write_report(work_dir, path, lambda what, k, n: print(f"{k} of {n} runs done: {what}", flush=True))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; give --out another file") from error
    console.print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
