"""What README and docs say can be followed: links lead somewhere, named files are there, commands have their flags."""

import argparse
import contextlib
import re
import runpy
import shlex
import string
import sys
import warnings

import pytest
import tyro

from data_pipelines.union14m.catalogue import COMMON
from maerec_jax import __main__ as maerec
from tests.conftest import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
FOLDERS = ("maerec_jax", "data_pipelines", "configs", "scripts", "docs", "tests")
THERE_OR_NOT = {"configs/my_mae.py": "configs/mae_vit_s.py", "configs/my_maerec.py": "configs/maerec_s.py"}
THERE_OR_NOT |= {"maerec_jax/models/NAME.py": "maerec_jax/models/mae.py"}
"""Files that a reader is told to write, and what stands in for them."""


class Parsed(BaseException):
    """Arguments were understood, and nothing more is to be done with them."""


def texts():
    return {page: page.read_text() for page in PAGES}


def fences(text):
    """The contents of the blocks of code, by language."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(text):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    kept = set(string.ascii_lowercase + string.digits + "-_ ")
    return {"".join(c for c in heading.lower() if c in kept).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_named_files_are_there(page):
    names = re.findall(
        rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|sh|md|toml|npz|json))\b", page.read_text()
    )
    missing = [name for name in names if not (REPOSITORY / name).exists() and name not in THERE_OR_NOT]
    assert not missing


def test_every_page_is_in_the_index():
    index = (REPOSITORY / "docs" / "README.md").read_text()
    pages = [str(page.relative_to(REPOSITORY / "docs")) for page in PAGES if page.is_relative_to(REPOSITORY / "docs")]
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    assert not [page for page in pages if f": {page}\n" not in navigation]
    # The history of a page is linked from it.
    missing = [page for page in pages if f"({page}" not in index and not page.startswith("history/")]
    assert missing in ([], ["README.md"])


def test_the_layout_in_the_readme_names_what_is_there():
    layout = (REPOSITORY / "README.md").read_text().split("## Layout")[1].split("```")[1]
    files = {path.name for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.*")}
    assert not set(re.findall(r"[\w-]+\.(?:py|sh|md)\b", layout)) - files
    folders = {p.name for p in (REPOSITORY / "maerec_jax").iterdir() if (p / "__init__.py").exists()}
    assert not {name for name in folders if f"{name}/" not in layout}


def commands(text):
    """The words of each command in a page that is Python of ours; options in brackets are taken, too."""
    lines = []
    for language, block in fences(text):
        if language in ("", "bash", "sh"):
            lines += re.sub(r"\s*\\\n\s*", " ", block).splitlines()
    lines += [line for line in re.findall(r"`([^`\n]+)`", text) if " --" in line]
    for line in lines:
        line = re.sub(r"^\$ ", "", line.strip())
        if not re.match(r"((\w+=\S+|taskset -c \d) )*(python|bash|maerec) ", line):
            continue
        line = re.sub(r"\[(--[^\[\]]*|overrides)\]", lambda m: "" if "|" in m[1] or m[1] == "overrides" else m[1], line)
        words = shlex.split(line, comments=True)
        words = words[next(i for i, word in enumerate(words) if word in ("python", "bash", "maerec")) :]
        words = words[: next((i for i, word in enumerate(words) if word in ("|", "&&", ">")), len(words))]
        words = [THERE_OR_NOT.get(word, word) for word in words if word != "..."]
        if words[0] == "maerec":
            parts = 2 if words[1] == "data" else 1
            command, words = " ".join(words[1 : 1 + parts]), words[1 + parts :]
            if command.startswith("-"):
                continue
            words = ["python", "-m", maerec.COMMANDS[command][0], *words]
        if words[:1] == ["bash"]:
            assert (REPOSITORY / words[1]).exists(), line
            if "--" not in words:
                continue
            words = ["python", "-m", "maerec_jax.train", *words[words.index("--") + 1 :]]  # what a launcher passes on
        if words[1] == "-m" and words[2].split(".")[0] in FOLDERS:
            yield line, words[2], words[3:]
        elif words[1].startswith("scripts/"):
            yield line, words[1], words[2:]


COMMANDS = {line: (what, arguments) for page in texts().values() for line, what, arguments in commands(page)}


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_their_flags(line, monkeypatch, capsys):
    """Each runs until its arguments are parsed. Of a config that the page has the reader write, the file is missing."""
    what, arguments = COMMANDS[line]
    if what.endswith(".py") and "--" not in line:
        assert (REPOSITORY / what).exists()
        return
    config = arguments[arguments.index("--config") + 1] if "--config" in arguments else ""
    if "--config" in arguments and not (REPOSITORY / config).exists():
        assert not config.startswith("configs/") or config in ("configs/", "...")
        return

    def cli(*positional, **named):
        real_cli(*positional, **named)
        raise Parsed

    def parse_args(self, *positional, **named):
        real_parse_args(self, *positional, **named)
        raise Parsed

    real_cli, real_parse_args = tyro.cli, argparse.ArgumentParser.parse_args
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(tyro, "cli", cli)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr("maerec_jax.distributed.host_memory.run_steps_in_this_thread", lambda: None)
    monkeypatch.setattr(sys, "argv", [what, *arguments])
    if what.endswith(".py"):
        monkeypatch.syspath_prepend(str((REPOSITORY / what).parent))
    try:
        with warnings.catch_warnings(), contextlib.suppress(Parsed):
            warnings.filterwarnings("ignore", message=".*found in sys.modules")
            runpy.run_path(what, run_name="__main__") if what.endswith(".py") else runpy.run_module(
                what, None, "__main__"
            )
            pytest.fail(f"{line}: was not parsed")
    except SystemExit as ended:
        if ended.code:
            told = capsys.readouterr()
            pytest.fail(f"{line}\n{told.out}{told.err}")


def test_the_names_by_which_common_benchmarks_are_found_are_documented():
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    for word_set in COMMON.sets:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {word_set.name} |")]
        for pattern in word_set.annotations:
            folder, name = pattern.split("/")
            assert f"`{folder}`" in row
            assert f"`{name.partition('.')[0]}`" in page
        assert all(f"`{folder}`" in row for folder in word_set.lmdbs)
