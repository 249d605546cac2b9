"""pyproject.toml names whatever a module imports: what another package happens to bring today may be gone tomorrow."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain

from tests.conftest import REPOSITORY
from tests.test_layout import MODULES, PACKAGES


def normalised(name):
    """The name of a distribution in its one normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required():
    """Names of all that the project requires, with any extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    return {normalised(re.split(r"[\s\[<>=!~;@]", line, maxsplit=1)[0]) for line in lines}


def imported(file):
    """Top-level names of what a file imports, inside of functions, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def test_whatever_is_imported_is_required():
    named, distributions = required(), packages_distributions()
    assert {"jax", "opencv-python-headless", "torch"} <= named
    wrong = {
        f"{name} imports {other}"
        for name, file in MODULES.items()
        for other in imported(file)
        if not {normalised(one) for one in distributions.get(other, [other])} & named
    }
    assert wrong == set()
