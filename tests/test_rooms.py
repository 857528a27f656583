"""Imports between the rooms run down the stairs, never up."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"errors", "files", "registry", "kernels"},
    {"backbones", "compat"},
    {"necks", "heads", "inputs", "checkpoints"},
    {"engine"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_imports_run_down(room):
    for path in sorted((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]:
        out_of_the_room = len(path.relative_to(ROOT).parts)  # kernels/x/y.py: three leading dots lead out
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert node.level or not node.module.startswith("bestiary"), f"{where}: inside a room, import relatively"
            if node.level == out_of_the_room:
                for other in [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]:
                    assert FLOOR.get(other, 99) <= FLOOR[room], f"{where}: {room} may not import {other}"
