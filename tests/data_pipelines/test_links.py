"""Links: what is behind them is read where the user says so; else what is not read is told."""

import pytest
from rich.console import Console

from data_pipelines.check import _place, check_places
from data_pipelines.checking.inspecting import Rules
from data_pipelines.errors import DataError, OutsideError
from data_pipelines.sources.files import Annotations, Folder, LmdbWords, with_links
from tests.data_pipelines.planting import counts
from tests.data_pipelines.preparing import run


@pytest.fixture
def roots(tmp_path, jpeg):
    """A data root with images of its own, and links to a folder and to an image of another disk."""
    root, disk = tmp_path / "root", tmp_path / "disk"
    for folder in (root / "a/own", disk / "img/deep"):
        folder.mkdir(parents=True)
    for number, place in enumerate((root / "a/own/0.jpg", disk / "img/1.jpg", disk / "img/deep/2.jpg", disk / "3.jpg")):
        place.write_bytes(jpeg(number))
    (root / "a/linked").symlink_to(disk / "img")
    (root / "a/3.jpg").symlink_to(disk / "3.jpg")
    (root / "a/linked_own").symlink_to(root / "a/own")
    (disk / "img/back").symlink_to(root / "a")
    (root / "all.txt").write_text("a/own/0.jpg\tx\na/linked/1.jpg\tx\na/linked/deep/2.jpg\tx\na/3.jpg\tx\n")
    (root / "behind.txt").write_text("a/linked/1.jpg\tx\n")
    return root


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_a_folder_is_searched_behind_links_where_wanted(roots, jpeg):
    source = Folder("a").open(roots)
    assert names(source) == ["a/3.jpg", "a/own/0.jpg"]
    (note,) = source.notes
    assert note.startswith(f"1 subfolders left out that are links, such as {roots}/a/linked: set follow_links")
    whole = Folder("a", follow_links=True).open(roots)
    assert names(whole) == ["a/3.jpg", "a/linked/1.jpg", "a/linked/deep/2.jpg", "a/own/0.jpg"], "each of them once"
    assert whole.notes == ()
    assert [whole[index].image for index in range(4)] == [jpeg(number) for number in (3, 1, 2, 0)]


def test_a_folder_of_links_alone_says_how_to_search_it(roots):
    (roots / "b").mkdir()
    (roots / "b/linked").symlink_to(roots / "a/own")
    with pytest.raises(DataError, match=r"b: holds no images; 1 subfolders left out .* set follow_links .*; give a"):
        Folder("b").open(roots)
    assert names(Folder("b", follow_links=True).open(roots)) == ["b/linked/0.jpg"]


def test_a_list_reads_behind_links_where_wanted(roots, jpeg):
    source = Annotations("all.txt").open(roots)
    assert source[0].image == jpeg(0)
    for index in (1, 2, 3):
        with pytest.raises(OutsideError, match=r"link out of the dataset; refused without follow_links \(.*all\.txt"):
            source[index]
    (note,) = source.notes
    assert "3 of 4 images looked at are behind links out of the dataset and not read: set follow_links" in note
    whole = Annotations("all.txt", follow_links=True).open(roots)
    assert [whole[index].image for index in range(4)] == [jpeg(number) for number in range(4)]
    assert whole.notes == ()
    (roots / "a/linked/1.jpg").unlink()
    with pytest.raises(DataError, match="image not found"):
        whole[1]


def test_names_lead_nowhere_else_even_then(roots):
    (roots / "all.txt").write_text("../disk/3.jpg\tx\n")
    with pytest.raises(OutsideError, match="points outside"):
        Annotations("all.txt", follow_links=True).open(roots)


def test_specs_of_files_are_told_to_follow():
    specs = [with_links(spec, True) for spec in (Folder("a"), Annotations("b"))]
    assert specs == [Folder("a", follow_links=True), Annotations("b", follow_links=True)]
    assert with_links(LmdbWords("c"), True) == LmdbWords("c")
    assert with_links(Folder("a"), False) == Folder("a")


def test_check_and_prepare_follow_where_wanted(roots, tmp_path, capsys):
    for follow, found in ((False, {"outside": 3}), (True, {})):
        rules = Rules("x", 9, 3, follow)
        (report,) = check_places(roots, [_place(roots, "all.txt")], rules, 0, Console(quiet=True))
        assert counts(report) == found
    flags = ("--sources", "a", "--out", tmp_path / "out")
    assert run(roots, *flags) == 0
    assert "1 subfolders left out that are links" in capsys.readouterr().err
    assert run(roots, *flags, "--out", tmp_path / "whole", "--follow-links") == 0
    told = capsys.readouterr()
    assert "links" not in told.err
    assert "4 records" in told.out
