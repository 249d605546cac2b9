"""Import every module of the installed packages, and ask every command for help: python imports.py CLONE [EXTRA].

Modules that [tool.maerec_jax.needs] of pyproject.toml lists under an extra may lack what that extra brings, elsewhere
than in its own environment; all others have to import everywhere.
"""

import contextlib
import importlib
import io
import runpy
import sys
import tomllib
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGES = ("maerec_jax", "data_pipelines")


def modules(clone: str) -> dict[str, Path]:
    """The modules of the installed packages and their files."""
    found = {}
    for package in PACKAGES:
        root = Path(importlib.import_module(package).__path__[0])
        if Path(clone) in root.parents:
            raise SystemExit(f"error: {package} comes from the source tree, not from the wheel")
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root.parent).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


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
    needs = tomllib.loads((Path(clone) / "pyproject.toml").read_text())["tool"]["maerec_jax"]["needs"]
    problems, commands, excepted, found = [], [], 0, modules(clone)
    for name, file in found.items():
        if '\nif __name__ == "__main__":' in file.read_text():
            commands.append(name.removesuffix(".__main__"))
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            others = [e for e, patterns in needs.items() if any(fnmatchcase(name, p) for p in patterns)]
            if others and extra not in others:
                excepted += 1
            else:
                problems.append(
                    f"{name} cannot be imported without {error.name}: import it where it is used, require it, or list "
                    "the module in [tool.maerec_jax.needs]"
                )
        except Exception as error:
            problems.append(f"{name} cannot be imported: {type(error).__name__}: {error}")
    for command in commands:
        if fault := fault_of_help(command):
            problems.append(f"{command} --help: {fault}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(found) - excepted} modules imported, {excepted} left to the extras that they need")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
