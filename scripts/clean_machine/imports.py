"""Import every module of the installed packages, and ask every command for help: python imports.py CLONE [EXTRA].

Modules that [tool.maerec_jax.needs] of pyproject.toml lists under an extra may lack what that extra brings, elsewhere
than in its own environment; all others have to import everywhere. And whatever any module imports, inside of functions,
too, has to be named in pyproject.toml: what another package happens to bring today may be gone tomorrow.
"""

import ast
import contextlib
import importlib
import importlib.metadata
import io
import re
import runpy
import sys
import tomllib
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGES = ("maerec_jax", "data_pipelines")


def modules(package: str) -> dict[str, Path]:
    """The modules of an installed package and their files."""
    (root,) = importlib.import_module(package).__path__
    found = {}
    for file in sorted(Path(root).rglob("*.py")):
        parts = (package, *file.relative_to(root).with_suffix("").parts)
        found[".".join(part for part in parts if part != "__init__")] = file
    return found


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def normalised(name: str) -> str:
    """The name of a distribution in its one normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(project: dict) -> set[str]:
    """Names of all that a project requires, with any extra."""
    everything = list(project["dependencies"])
    for requirements in project["optional-dependencies"].values():
        everything += requirements
    return {normalised(re.split(r"[\s\[<>=!~;@]", line, maxsplit=1)[0]) for line in everything}


def fault_of_help(command: str) -> str | None:
    """What goes wrong when a command is asked for help; it runs in this process, where all is imported already."""
    sys.argv = [command, "--help"]
    warnings.simplefilter("ignore")  # runpy warns of what is imported already
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            runpy.run_module(command, run_name="__main__")
    except SystemExit as ended:
        return None if not ended.code and told.getvalue() else f"status {ended.code}: {told.getvalue()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it goes on"


def main(clone: str, extra: str = "") -> int:
    """Import all and ask for help; returns the exit status."""
    settings = tomllib.loads((Path(clone) / "pyproject.toml").read_text())
    needs: dict[str, list[str]] = settings["tool"]["maerec_jax"]["needs"]
    named, distributions = required(settings["project"]), importlib.metadata.packages_distributions()
    problems, commands, excepted, total = [], [], 0, 0
    for package in PACKAGES:
        if Path(clone) in Path(importlib.import_module(package).__path__[0]).parents:
            raise SystemExit(f"error: {package} comes from the source tree, not from the wheel")
        for name, file in modules(package).items():
            total += 1
            if '\nif __name__ == "__main__":' in file.read_text():
                commands.append(name.removesuffix(".__main__"))
            for other in sorted(imported(file)):
                if not {normalised(d) for d in distributions.get(other, [other])} & named:
                    problems.append(f"{name} imports {other}, which pyproject.toml does not name")
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                others = [e for e, patterns in needs.items() if any(fnmatchcase(name, p) for p in patterns)]
                if others and extra not in others:
                    excepted += 1
                else:
                    problems.append(
                        f"{name} cannot be imported without {error.name}: import it where it is used, require it, or "
                        "list the module in [tool.maerec_jax.needs]"
                    )
            except Exception as error:
                problems.append(f"{name} cannot be imported: {type(error).__name__}: {error}")
    for command in commands:
        fault = fault_of_help(command)
        if fault:
            problems.append(f"{command} --help: {fault}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{total - excepted} modules imported, {excepted} left to the extras that they need")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
