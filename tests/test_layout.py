"""Imports run down the rooms of docs/design.md, or stay inside one; no two modules import each other."""

import ast
import re

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("data_pipelines", "maerec_jax")


def module_of(file):
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py")}


def read_imports(file):
    """The modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return {name for name in found if name in MODULES and name != module_of(file)}


IMPORTS = {module: read_imports(file) for module, file in MODULES.items()}


def rooms():
    """Each room's level and number, by the names of its modules and packages."""
    (block,) = re.findall(r"```rooms\n(.*?)```", (REPOSITORY / "docs" / "design.md").read_text(), re.DOTALL)
    names = {}
    for level, line in enumerate(block.strip().splitlines()):
        for number, room in enumerate(line.split("|")):
            names |= dict.fromkeys(room.split(), (level, number))
    return names


ROOMS = rooms()


def room_of(module):
    parts = module.split(".")
    starts = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((ROOMS[start] for start in starts if start in ROOMS), None)


def test_every_module_has_a_room_and_every_room_modules():
    assert [module for module in MODULES if room_of(module) is None] == []
    assert [name for name in ROOMS if name not in MODULES] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_down(package):
    wrong = []
    for module, imported in IMPORTS.items():
        for other in imported if module.startswith(package) else ():
            here, there = room_of(module), room_of(other)
            if here != there and here[0] <= there[0]:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_data_pipelines_imports_nothing_of_maerec_jax():
    assert [m for m, others in IMPORTS.items() if m.startswith("data_") for o in others if o.startswith("maerec")] == []


def test_no_modules_import_each_other():
    circles = []

    def walk(module, path):
        if module in path:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for other in sorted(IMPORTS[module]):
                walk(other, [*path, module])
            done.add(module)

    done = set()
    for module in sorted(MODULES):
        walk(module, [])
    assert circles == []
