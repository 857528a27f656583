"""The console command: help, look-up of commands, names of backbones."""

import subprocess
import sys
from pathlib import Path

import pytest

import bestiary
from bestiary.tools import cli


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from bestiary.tools.cli import main; status = main(['--help']); "
        "heavy = {'torch', 'mmengine', 'numpy', 'rich'} & set(sys.modules); sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, what in cli.COMMANDS.items():
        assert f"{name:10s} {what}" in done.stdout


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "list"])
def test_every_command_has_its_module(name):
    source = (Path(cli.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    assert "def main(argv" in source and '__name__ == "__main__"' in source


def test_unknown_command(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: no command 'trian' (did you mean 'train'?); there are tr")
    assert cli.main([]) == 2


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"bestiary {bestiary.__version__}\n"


def test_list(capsys):
    assert cli.main(["list", "poolformer*"]) == 0
    assert capsys.readouterr().out.split() == bestiary.list_backbones("poolformer*")
    assert cli.main(["list"]) == 0
    assert capsys.readouterr().out.split() == bestiary.list_backbones("*")
    assert cli.main(["list", "poolformr_s12"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no backbone fits 'poolformr_s12'") and "poolformer_s12" in err
