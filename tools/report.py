"""Make the page of a training: curves, classes, pictures, config and machine in one HTML file.

`bestiary train` makes it at its end; this makes it of a run that still goes on or was killed, of one that mmengine
alone trained, or of all runs below a folder, their curves on one axis.
"""

import sys
from pathlib import Path

from bestiary.engine.launch import run_guarded
from bestiary.errors import InputError
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, make, print; returns the exit status."""
    parser = command_parser("report", __doc__)
    parser.add_argument("work_dir", help="where `bestiary train` wrote, or a folder of such")
    parser.add_argument("--out", metavar="FILE", help="the page; WORK_DIR/report.html if left out")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: report(args.work_dir, args.out), args.debug)


def report(work_dir: str, out: str | None = None) -> Path:
    """Write the page, and say where and how large.

    Raises:
        InputError: there is no run; the page cannot be written.
    """
    from bestiary.engine.progress import ItemProgress
    from bestiary.engine.report import PAGE
    from bestiary.engine.report.page import write_report
    from bestiary.engine.report.runs import find_runs

    runs = find_runs(work_dir)
    path = Path(out) if out else Path(work_dir) / PAGE
    if path.is_dir():
        raise InputError(f"{path}: a folder; give --out the name of a file, as {path / PAGE}")
    try:
        with ItemProgress("report", len(runs), "runs") as progress:
            write_report(work_dir, path, runs, progress.done)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; give --out another file") from error
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


if __name__ == "__main__":
    sys.exit(main())
