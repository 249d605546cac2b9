"""Compare a wheel that a source distribution made with what git tracks: python packaged.py CLONE WHEEL."""

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = ("maerec_jax", "data_pipelines")


def contents(wheel: str) -> dict[str, bytes]:
    """The files of the packages in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.split("/")[0] in PACKAGES]
        return {name: archive.read(name) for name in names}


def main(clone: str, wheel: str) -> int:
    """Print what is missing or left over; returns the exit status."""
    listed = subprocess.run(["git", "ls-files", "-z", *PACKAGES], cwd=clone, capture_output=True, check=True).stdout
    tracked = set(listed.decode().split("\0")) - {""}
    built = contents(wheel)
    problems = [f"{name} is tracked, but not in the wheel" for name in sorted(tracked - built.keys())]
    problems += [f"{name} is in the wheel, but not tracked" for name in sorted(built.keys() - tracked)]
    problems += [
        f"{name} is not the file that is tracked"
        for name in sorted(tracked & built.keys())
        if built[name] != (Path(clone) / name).read_bytes()
    ]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        print("data files are named in [tool.setuptools.package-data] of pyproject.toml", file=sys.stderr)
        return 1
    size = Path(wheel).stat().st_size / 1e6
    print(f"{len(built)} files in a wheel of {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
