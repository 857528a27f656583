"""The package as it is installed: what setup.cfg says, against what lies in the checkout."""

import configparser
import subprocess
import sys
from pathlib import Path

import bestiary

ROOT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = {"tests", "docs", "build", "dist", "data", "work_dirs"}


def test_setup_cfg_lists_every_package():
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    listed = set(cfg["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/**/__init__.py")}
    found = {"bestiary"} | {
        ".".join(("bestiary", *folder.parts))
        for folder in folders
        if folder.parts[0] not in NOT_SHIPPED and not folder.parts[0].startswith((".", "venv"))
    }
    assert listed == found


def test_the_suite_tests_this_checkout():
    home = Path(bestiary.__file__).resolve().parent
    assert home == ROOT or "site-packages" in home.parts, (
        f"bestiary is imported from {home}, these tests lie in {ROOT}: run `pip install -e {ROOT}`"
    )


def test_every_module_is_loaded_once():
    home = Path(bestiary.__file__).resolve().parent
    names: dict[Path, list[str]] = {}
    for name, module in list(sys.modules.items()):
        if path := getattr(module, "__file__", None):
            names.setdefault(Path(path).resolve(), []).append(name)
    # A virtual environment may lie in the checkout: what is installed there is not ours.
    ours = (path for path in names if path.is_relative_to(home) and "site-packages" not in path.relative_to(home).parts)
    twice = {str(path): names[path] for path in ours if path != home / "__init__.py" and len(names[path]) > 1}
    assert not twice


def test_a_room_cannot_be_imported_from_the_working_directory():
    command = [sys.executable, "-c", "import backbones.metaformer"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "beyond top-level package" in done.stderr
