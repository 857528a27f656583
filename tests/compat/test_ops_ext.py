"""The module mmcv._ext that mmcv-lite gets: which names it has, when it stands back, what it says."""

import ast
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bestiary  # noqa: F401  (it installs the provider)
from bestiary.compat import ext
from bestiary.errors import InputError


def asked_names():
    """What the wrappers of the installed mmcv ask load_ext for."""
    import mmcv

    names = set()
    for path in (Path(mmcv.__file__).parent / "ops").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_ext":
                names |= set(ast.literal_eval(node.args[1]))
    return names


def test_every_name_that_mmcv_asks_for_is_there_and_no_other():
    import mmcv._ext

    names = asked_names()
    assert len(names) == 112
    provided = {name for family in ext.PROVIDED.values() for name in family}
    assert provided | ext.MISSING | {"get_compiler_version", "get_compiling_cuda_version"} == names
    assert not provided & ext.MISSING
    assert all(callable(getattr(mmcv._ext, name)) for name in names)
    with pytest.raises(AttributeError, match="provided by bestiary.* has no attribute 'no_such_operator'"):
        mmcv._ext.no_such_operator  # noqa: B018


def test_an_operator_that_is_not_provided_says_so():
    from mmcv.ops import box_iou_rotated

    boxes = torch.tensor([[3.0, 4.0, 5.0, 6.0, 0.5]])
    with pytest.raises(InputError, match="operator 'box_iou_rotated': .* compiled mmcv has it: .* install mmcv"):
        box_iou_rotated(boxes, boxes)


def test_mmengine_and_mmcv_see_it():
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.utils.dl_utils.misc import mmcv_full_available

    spec = importlib.util.find_spec("mmcv._ext")
    assert isinstance(spec.loader, importlib.abc.Loader)
    assert ext.is_provided()
    if sys.version_info < (3, 14):
        assert pkgutil.find_loader("mmcv._ext") is not None
        assert mmcv_full_available() and check_ops_exist()


def test_collect_env_prints_where_the_operators_come_from():
    from mmcv.ops import get_compiler_version, get_compiling_cuda_version

    assert "bestiary" in get_compiler_version() and "bestiary" in get_compiling_cuda_version()


def test_a_compiled_module_wins(tmp_path, monkeypatch):
    import mmcv

    (tmp_path / "_ext.py").write_text("def nms(): ...\n")
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    assert importlib.util.find_spec("mmcv._ext").origin == "bestiary.compat"
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    assert importlib.util.find_spec("mmcv._ext").origin == str(tmp_path / "_ext.py")


def test_installing_twice_adds_one_finder_and_imports_nothing():
    code = """if True:
        import sys
        from bestiary.compat.ext import install_ext, is_provided
        install_ext(), install_ext()
        assert [type(finder).__name__ for finder in sys.meta_path].count("_ExtFinder") == 1
        assert not is_provided() and not {"torch", "torchvision", "mmcv"} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_operators_run_outside_of_autograd_and_autocast():
    import mmcv._ext

    from bestiary.compat.ops.calling import as_compiled

    features = torch.randn(1, 3, 4, 5, requires_grad=True)
    masks, output = torch.randn(1, 9, 8, 10), torch.zeros(1, 3, 8, 10)
    mmcv._ext.carafe_naive_forward(features, masks, output, 3, 1, 2)
    assert output.any() and not output.requires_grad
    matrix = torch.randn(5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16
        assert as_compiled(torch.matmul)(matrix, matrix).dtype == torch.float32


def test_signatures_bear_the_compiled_names():
    """mmcv passes most arguments by keyword; pybind.cpp, which mmcv-lite ships, has their names and order."""
    import re

    import mmcv
    import mmcv._ext

    text = (Path(mmcv.__file__).parent / "ops/csrc/pytorch/pybind.cpp").read_text(encoding="utf-8")
    arguments = {
        match[1]: re.findall(r'py::arg\("(\w+)"\)', match[2])
        for match in re.finditer(r'm\.def\("(\w+)",(.*?)\);', text, re.DOTALL)
    }
    for family in ext.PROVIDED.values():
        for name in family:
            assert list(inspect.signature(getattr(mmcv._ext, name)).parameters) == arguments[name], name
