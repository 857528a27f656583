"""Configs that come from elsewhere: read only if they are data, which is seen from their text, before anything runs.

A config is a program. This accepts the part of Python that most are written in, in the file and in each of its bases:
literals, `dict(...)`, `_base_`, arithmetic, and names that the file has set before.

What the data then name is built from registries, and mmengine takes a `type` that no registry knows for a path to
import: `dict(type="os.system", command=...)` is data and a program. So such types are refused, too.
"""

import ast
import functools
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import registry as registries
from mmengine.utils import import_modules_from_strings

from ..errors import InputError

PACKAGES = ("bestiary", "mmdet", "mmseg", "mmengine")  # of which custom_imports may name modules
LARGEST = 10**6  # of a number that repeats a list or a text, and of a power
SUBSTITUTED = re.compile(
    r"\{\{(?!\s*_base_(?:\.\w+)+\s*\}\})"
)  # what mmengine replaces in the text before it is Python
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)


def need_safe(path: Path) -> list[Path]:
    """Ask that a config and all its bases are data; returns the files that were looked at.

    Raises:
        InputError: one is not; it is named with line and reason. A base is not there, or includes itself.
    """
    seen: list[Path] = []
    _look_at(path, seen, ())
    return seen


def _look_at(path: Path, seen: list[Path], inside: tuple[Path, ...]) -> None:
    path = path.resolve()
    if path in inside:
        raise InputError(f"{path}: includes itself by _base_")
    if path in seen:
        return
    seen.append(path)
    if path.suffix != ".py":
        raise InputError(f"{path}: --safe-config reads configs in Python (.py)")
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not a config in Python: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if SUBSTITUTED.search(line):
            _refuse(
                path, number, "{{...}}, which is replaced in the text before it is looked at, other than {{_base_.x}}"
            )
    look = _Look(path)
    try:
        look.at_file(tree)
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error
    for base in look.bases:
        try:
            found, _ = Config._get_cfg_path(base, str(path))
        except Exception as error:  # mmengine's words for a package or a file that is not there
            raise InputError(f"{path}: _base_ {base!r}: {error}") from error
        if not Path(found).is_file():
            raise InputError(f"{path}: _base_ {base!r}: no such file")
        _look_at(Path(found), seen, (*inside, path))


def _refuse(path: Path, line: int, what: str) -> None:
    raise InputError(
        f"{path}:{line}: --safe-config takes literals, dict(...), _base_ and arithmetic, and this is {what}: nothing "
        "was run; read the config, and leave --safe-config out if you trust it"
    )


class _Look:
    """One file, statement after statement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, ast.expr] = {}
        self.bases: list[str] = []

    def no(self, node: ast.AST, what: str) -> None:
        _refuse(self.path, getattr(node, "lineno", 1), what)

    def at_file(self, tree: ast.Module) -> None:
        for i, statement in enumerate(tree.body):
            if i == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # the docstring
            if not isinstance(statement, ast.Assign):
                inner = statement.value if isinstance(statement, ast.Expr) else statement
                self.no(statement, f"{_kind(inner)}, not an assignment")
            self.at_assignment(statement)

    def at_assignment(self, statement: ast.Assign) -> None:
        value = statement.value
        self.at(value)
        pairs = [(target, value) for target in statement.targets]
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple | ast.List):  # a, b = 1, 2
                if len(target.elts) == len(value.elts):
                    pairs += zip(target.elts, value.elts, strict=True)
                    continue
            if isinstance(target, ast.Subscript):  # pipeline[1] = dict(...)
                self.at(target)
                continue
            if not isinstance(target, ast.Name):
                self.no(target, "an assignment to something else than a name or an item")
            if target.id == "dict" or (target.id.startswith("__") and target.id.endswith("__")):
                self.no(target, f"an assignment to {target.id}")
            self.names[target.id] = value
            if target.id == "_base_":
                self.bases += self.texts(value, "_base_")
            if target.id == "custom_imports":
                self.at_imports(value)

    def at_imports(self, value: ast.expr) -> None:
        pairs = {}
        if isinstance(value, ast.Call):
            pairs = {keyword.arg: keyword.value for keyword in value.keywords}
        elif isinstance(value, ast.Dict):
            pairs = {getattr(key, "value", None): item for key, item in zip(value.keys, value.values, strict=True)}
        else:
            self.no(value, "custom_imports that is not dict(imports=[...])")
        if set(pairs) - {"imports", "allow_failed_imports", "_delete_"} or getattr(value, "args", None):
            self.no(value, "custom_imports that is not dict(imports=[...])")
        for name in self.texts(pairs["imports"], "custom_imports.imports") if "imports" in pairs else ():
            if not _may_import(name):
                self.no(value, f"custom_imports of {name!r}; only modules of {', '.join(PACKAGES)} may be named")

    def texts(self, value: ast.expr, what: str) -> list[str]:
        """A text, or a list or tuple of texts, written out."""
        parts = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
        if not all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts):
            self.no(value, f"{what} that is not written out as text")
        return [part.value for part in parts]

    def at(self, node: ast.expr | None) -> None:
        """Ask that an expression is data."""
        match node:
            case None | ast.Constant():
                pass
            case ast.Name(id=name):
                if name not in self.names and name != "_base_":
                    self.no(node, f"{name}, which the file has not set before")
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                for part in parts:
                    self.at(part.value if isinstance(part, ast.Starred) else part)
            case ast.Dict(keys=keys, values=values):
                for part in (*keys, *values):
                    self.at(part)
            case ast.Call(func=ast.Name(id="dict")):
                for part in node.args:
                    self.at(part)
                for keyword in node.keywords:
                    self.at(keyword.value)
            case ast.Attribute():
                self.at_base(node)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub() | ast.Not()):
                self.at(node.operand)
            case ast.BinOp(op=op) if isinstance(op, OPERATORS):
                self.at(node.left)
                self.at(node.right)
                self.at_size(node)
            case ast.Subscript():
                self.at(node.value)
                self.at(node.slice)
            case ast.Slice():
                for part in (node.lower, node.upper, node.step):
                    self.at(part)
            case _:
                self.no(node, _kind(node))

    def at_base(self, node: ast.Attribute) -> None:
        """`_base_.model.neck`."""
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            if inner.attr.startswith("_") or hasattr(dict, inner.attr):
                self.no(node, f".{inner.attr}, which is of Python and not of a config")
            inner = inner.value
        if not (isinstance(inner, ast.Name) and inner.id == "_base_"):
            self.no(node, "an attribute of something else than _base_")

    def at_size(self, node: ast.BinOp) -> None:
        """Ask that a power and a repetition are small: `[0] * 10 ** 12` is data that fills the memory."""
        parts = [self.names.get(p.id, p) if isinstance(p, ast.Name) else p for p in (node.left, node.right)]
        values = [part.value if isinstance(part, ast.Constant) else None for part in parts]
        sizes = [abs(value) for value in values if isinstance(value, int | float)]
        if isinstance(node.op, ast.Pow) and (len(sizes) < 2 or sizes[1] > 64 or sizes[0] > LARGEST):
            self.no(node, "a power of other than small numbers")
        repeated = any(isinstance(part, ast.List | ast.Tuple) for part in parts) or any(
            isinstance(value, str | bytes) for value in values
        )
        if isinstance(node.op, ast.Mod) and repeated:
            self.no(node, "a text with values put into it")
        if isinstance(node.op, ast.Mult) and repeated and not (sizes and sizes[0] <= LARGEST):
            self.no(node, f"a list or text repeated more than {LARGEST:,} times")


def _may_import(name: object) -> bool:
    return isinstance(name, str) and name.partition(".")[0] in PACKAGES


def _kind(node: ast.AST) -> str:
    match node:
        case ast.Import() | ast.ImportFrom():
            return "an import"
        case ast.Call():
            return f"a call of {ast.unparse(node.func)[:60]}"
        case ast.FunctionDef() | ast.Lambda() | ast.ClassDef():
            return "the definition of a function or class"
        case ast.ListComp() | ast.DictComp() | ast.SetComp() | ast.GeneratorExp():
            return "a comprehension"
        case ast.JoinedStr():
            return "a text with values put into it"
    return f"a {re.sub(r'(?<!^)(?=[A-Z])', ' ', type(node).__name__).lower()}"


def load_safely(path: Path) -> Config:
    """Read a config that has to be data, see `need_safe`; from now on types are taken from the registries alone.

    Raises:
        InputError: it is not; once bases are merged, it imports modules of other packages.
    """
    need_safe(path)
    refuse_imported_types()
    cfg = Config.fromfile(path, import_custom_modules=False)
    imports = cfg.get("custom_imports") or {}
    names = imports.get("imports") or []
    names = [names] if isinstance(names, str) else list(names)
    if others := [name for name in names if not _may_import(name)]:
        raise InputError(f"{path}: --safe-config: custom_imports of {others}; it may name modules of {PACKAGES}")
    import_modules_from_strings(names, imports.get("allow_failed_imports", False))
    return cfg


def refuse_imported_types() -> None:
    """From now on, a `type` that no registry knows is unknown, and is not imported by its path."""
    if hasattr(registries.get_object_from_string, "refuses"):
        return

    @functools.wraps(registries.get_object_from_string)
    def get_object_from_string(name: str) -> None:
        return None

    get_object_from_string.refuses = True
    registries.get_object_from_string = get_object_from_string
