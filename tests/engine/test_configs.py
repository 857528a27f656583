"""Finding, reading and changing configs."""

import pytest

from bestiary.engine.configs import base_dataset, find_config, load_config, shipped_configs
from bestiary.errors import InputError


def test_found_by_path_with_and_without_suffix(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("a = 1\n")
    monkeypatch.chdir(tmp_path)
    assert find_config("mine").resolve() == find_config(str(tmp_path / "mine.py"))
    with pytest.raises(InputError, match="a folder; a config is a .py file"):
        find_config(str(tmp_path))


def test_found_by_the_name_of_one_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = shipped_configs()
    assert names and not any(name.startswith("_base_") for name in names)
    for name in names:
        assert find_config(name).is_file() and find_config(f"{name}.py") == find_config(name)
    name = names[0]
    with pytest.raises(InputError, match=f"no such config file; did you mean {name}"):
        find_config(name[:-1] + "x")
    with pytest.raises(InputError, match=f"did you mean .*{name}"):  # the folder may be left out
        find_config(name.rsplit("/", 1)[1])
    with pytest.raises(InputError, match=r"qqqq.py: no such config file \(configs that ship: "):
        find_config("qqqq.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = (2\n", r"bad.py:2: not a config in Python: SyntaxError"),
        ("a = 1\nb = 2\nc = d\n", r"bad.py:3: the config does not load: NameError: name 'd' is not defined"),
        ("_base_ = ['./nothing.py']\n", r"bad.py: the config does not load: .*nothing.py"),
        (
            "custom_imports = dict(imports=['no_such_module_x'])\n",
            r"bad.py: the config does not load: .*no_such_module_x",
        ),
    ],
)
def test_a_config_that_does_not_load_names_file_and_line(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(str(tmp_path / "bad.py"))


def test_error_in_a_base(tmp_path):
    (tmp_path / "base.py").write_text("x = 1\ny = 1 / 0\n")
    (tmp_path / "top.py").write_text("_base_ = ['./base.py']\n")
    with pytest.raises(InputError, match=r"base.py:2: the config does not load: ZeroDivisionError"):
        load_config(str(tmp_path / "top.py"))


def test_options_are_merged(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("a = dict(b=1, c=[dict(d=2), dict(d=3)])\n")
    cfg = load_config(str(path), {"a.b": 5, "a.c.1.d": 6, "new.entry": 7})
    assert (cfg.a.b, cfg.a.c[0].d, cfg.a.c[1].d, cfg.new.entry) == (5, 2, 6, 7)
    with pytest.raises(InputError, match=r"--cfg-options a.c.7.d=1 does not fit this config: KeyError"):
        load_config(str(path), {"a.c.7.d": 1})


def test_base_dataset_looks_inside():
    inner = dict(type="CocoDataset")
    assert base_dataset(dict(type="RepeatDataset", dataset=dict(type="ConcatDataset", datasets=[inner]))) is inner
    assert base_dataset(inner) is inner
