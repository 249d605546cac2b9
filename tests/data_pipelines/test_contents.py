"""What sources hold in a few numbers: the same for the same names and labels, other ones for others."""

import numpy as np
import pytest

from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.combining import Sources, Subset
from data_pipelines.sources.contents import contents_of
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from tests.data_pipelines.planting import write_lines


def listed(dataset, records):
    write_lines(dataset / "some.jsonl", records)
    return contents_of(Annotations("some.jsonl").open(dataset), labelled=True)


def test_names_labels_and_numbers_of_a_list_tell_it_from_others(dataset):
    names = [f"set/full_images/made/{number:02d}.jpg" for number in range(4)]
    whole = listed(dataset, [(name, "word") for name in names])
    assert whole == listed(dataset, [(name, "word") for name in names])
    assert whole.records == 4
    other = listed(dataset, [(name, "word" if name != names[2] else "work") for name in names])
    assert (other.names, other.labels != whole.labels) == (whole.names, True)
    moved = listed(dataset, [(name, "word") for name in names[::-1]])
    assert (moved.labels, moved.names != whole.names) == (whole.labels, True)
    unlabelled = contents_of(Annotations("some.jsonl").open(dataset), labelled=False)
    assert (unlabelled.names, unlabelled.labels) == (moved.names, 0)


def test_a_subset_is_told_from_others(dataset):
    folder = Folder("set").open(dataset)
    some, others = (contents_of(Subset(folder, np.array(chosen)), True) for chosen in ([1, 2], [1, 3]))
    assert some.records == others.records == 2
    assert some.names != others.names


def test_the_labels_of_an_lmdb_count_where_they_are_needed(dataset, make_lmdb):
    one, other = (LmdbWords(make_lmdb(name, 5, labelled=True)).open(dataset) for name in ("one", "other"))
    assert contents_of(one, True) == contents_of(other, True)
    assert contents_of(one, True).labels != contents_of(one, False).labels == 0


def test_rendered_words_are_known_by_their_list(tmp_path):
    def contents(words):
        (tmp_path / "words.txt").write_text(words)
        return contents_of(RenderedWords(words="words.txt", size=10).open(tmp_path), True)

    one, again, other = map(contents, ("one\ntwo\nsix\n", "one\ntwo\nsix\n", "one\ntwo\nten\n"))
    assert one == again
    assert one.labels != other.labels


class Counted:
    def __init__(self, size, drawn=False):
        self.size, self.drawn = size, drawn

    def __len__(self):
        return self.size


@pytest.mark.parametrize(
    ("own", "weights", "epoch"),
    [
        ((100, 20), (None, None), 120 + 1000),  # nothing is drawn more often than once
        ((100, 20), (None, 0.5), (100 + 20) / (0.5 * 100 / 1100 + 0.5)),
        ((100,), (None,), 100 + 1000),
        ((), (), 1000),
    ],
)
def test_an_epoch_is_one_of_ones_own_images(own, weights, epoch):
    sources = Sources([*map(Counted, own), Counted(1000, drawn=True)], [*weights, None])
    assert sources.epoch == pytest.approx(epoch)


def test_a_million_drawn_words_beside_a_hundred_images_are_no_epoch():
    sources = Sources([Counted(100), Counted(10**6, drawn=True)], [None, 0.5])
    assert sources.epoch == pytest.approx(200)
