"""--safe-config: what is data is read as without it, what is not is named and not run."""

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, registry

from bestiary.engine.configs import find_config, load_config, shipped_configs
from bestiary.engine.launch import explain
from bestiary.engine.safe_config import need_safe
from bestiary.errors import InputError
from bestiary.tools.cli import main


@pytest.fixture(autouse=True)
def _types_by_path_again(monkeypatch):
    monkeypatch.setattr(registry, "get_object_from_string", registry.get_object_from_string)


QUICKSTART = [name for name in shipped_configs() if name.startswith("quickstart/")]


@pytest.mark.parametrize("name", QUICKSTART)
def test_those_of_the_quickstart_read_the_same(name):
    assert len(QUICKSTART) == 3
    assert load_config(name, safe=True).to_dict() == load_config(name).to_dict()


@pytest.mark.slow
def test_shipped_configs_that_pass():
    """79 of 296; the others call `update` of a pipeline's step, or have a comprehension or a function."""
    names = []
    for name in shipped_configs():
        try:
            need_safe(find_config(name))
            names.append(name)
        except InputError as error:
            assert "--safe-config" in str(error), error
    assert len(names) >= 79 and set(QUICKSTART) <= set(names), len(names)


DATA = [
    "a = 1\nb = [a, -a, (a + 2) * 3 / 2 - 2 ** 4 // 3 % 2]\nc = dict(x=b, **dict(y=None))\nd = {'k': {1, 2}, **c}",
    "'''Words.'''\na, b = 1, 'x'\nl = [0, *(1, 2)] * a\nl[0] = dict(type='X')\nm = l[1:]",
    "_base_ = ['base.py']\na = _base_.deep.er\nb = dict(x=_base_.n + 1)\nc = {{_base_.n}}",
    "n = 3\nw = [1.0] * n + [0.1]\ncustom_imports = dict(imports=['bestiary'], allow_failed_imports=False)",
]


@pytest.mark.parametrize("text", DATA)
def test_data_is_read_as_without(text, tmp_path):
    (tmp_path / "base.py").write_text("n = 3\ndeep = dict(er=[1, 2])\n")
    path = tmp_path / "config.py"
    path.write_text(text)
    assert load_config(str(path), safe=True).to_dict() == Config.fromfile(path).to_dict()


PROGRAMS = {
    "import os": "an import",
    "from os import path": "an import",
    "a = open('x')": "a call of open",
    "a = dict(b=list(range(3)))": "a call of list",
    "def f(): pass": "the definition of a function or class",
    "class A: pass": "the definition of a function or class",
    "a = lambda: 1": "the definition of a function or class",
    "a = [i for i in (1, 2)]": "a comprehension",
    "a = 1\nb = f'{a}'": "a text with values put into it",
    "a = '%s' % 3": "a text with values put into it",
    "a = ().__class__": "is of Python and not of a config",
    "a = [1]\nb = a.append": "an attribute of something else than _base_|not of a config",
    "_base_ = 'base.py'\na = _base_.__class__": "is of Python and not of a config",
    "_base_ = 'base.py'\na = _base_.pop": "is of Python and not of a config",
    "dict = 3": "an assignment to dict",
    "__builtins__ = {}": "an assignment to __builtins__",
    "a = b": "b, which the file has not set before",
    "a = print": "print, which the file has not set before",
    "for i in (1,): pass": "a for",
    "with open('x') as f: a = 1": "a with",
    "a = 1 if True else 2": "a if exp",
    "a = (b := 3)": "a named expr",
    "a = [0] * 10 ** 12": "a list or text repeated",
    "a = 10 ** 10 ** 10": "a power",
    "a = '{{$HOME:x}}'": r"\{\{...\}\}",
    "a = '{{ fileDirname }}'": r"\{\{...\}\}",
    "_base_ = 'ba' + 'se.py'": "_base_ that is not written out",
    "custom_imports = dict(imports=['os'])": "custom_imports of 'os'",
    "custom_imports = dict(imports=['bestiary_evil'])": "custom_imports of 'bestiary_evil'",
    "x = ['os']\ncustom_imports = dict(imports=x)": "not written out as text",
    "x = dict(imports=['os'])\ncustom_imports = x": "custom_imports that is not",
    "custom_imports = dict(imports=['bestiary'])\ncustom_imports['imports'][0] = 'antigravity'": "custom_imports of",
    "a.b = 3": "an assignment to something else",
    "a = 1\ndel a": "a delete",
    "a: int = 3": "a ann assign",
    "a = b'": "not a config in Python",
}


@pytest.mark.parametrize("text", PROGRAMS)
@pytest.mark.parametrize("where", ["file", "base"])
def test_programs_are_refused(where, text, tmp_path):
    (tmp_path / "base.py").write_text("n = 3\n")
    path = tmp_path / "config.py"
    path.write_text(text)
    if where == "base":
        path = tmp_path / "outer.py"
        path.write_text("_base_ = ['config.py']\nmodel = dict()\n")
    file = "(config|outer)" if "][" in text else "config"  # found once bases are merged
    with pytest.raises(InputError, match=rf"{file}\.py.*({PROGRAMS[text]})"):
        load_config(str(path), safe=True)


def test_other_bases_are_refused(tmp_path):
    path = tmp_path / "config.py"
    for text, words in {
        "_base_ = 'none.py'": "no such file",
        "_base_ = 'config.py'": "includes itself",
        "_base_ = 'c.yaml'": "reads configs in Python",
        "_base_ = 'nobody::x.py'": "nobody",
    }.items():
        (tmp_path / "c.yaml").write_text("a: 1\n")
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            need_safe(path)
    path.write_text("a = " + "(" * 5000 + ")" * 5000)
    with pytest.raises(InputError, match="nested too deeply|not a config in Python"):
        need_safe(path)


def test_types_come_from_registries_alone(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("hook = dict(type='os.mkdir')")
    cfg = load_config(str(path), safe=True)
    with pytest.raises(KeyError) as raised:
        HOOKS.build(cfg.hook)
    assert "type='os.mkdir' is in no hook registry" in explain(raised.value)
    assert HOOKS.build(dict(type="IterTimerHook")) and HOOKS.build(dict(type="mmengine.EMAHook"))


@pytest.mark.parametrize("tool", ["train", "check", "flops", "data check"])
def test_the_option(tool, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\nmodel = dict()\n")
    assert main([*tool.split(), str(path), "--safe-config"]) == 1
    assert "config.py:1: --safe-config takes literals" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_options_of_the_command_line(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("a = dict(b=1)")
    assert load_config(str(path), {"a.b": "__import__('os')"}, safe=True).a.b == "__import__('os')"
    with pytest.raises(InputError, match="--cfg-options custom_imports: not with --safe-config"):
        load_config(str(path), {"custom_imports.imports": ["antigravity"]}, safe=True)
