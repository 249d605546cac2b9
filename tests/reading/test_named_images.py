"""Names on the command line: what is read of them, and what is said of those that are no images."""

import lmdb
import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import UserError
from maerec_jax.reading.named_images import loaded_ahead, open_images


def names(opened):
    prefix, source = opened
    return [prefix + source.name(index) for index in range(len(source))]


def test_linked_subfolders_are_searched_where_wanted(tmp_path):
    for folder in ("pictures", "elsewhere"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 4)).save(tmp_path / folder / "0.png")
    (tmp_path / "pictures/linked").symlink_to(tmp_path / "elsewhere")
    folder = str(tmp_path / "pictures")
    assert names(open_images(folder)) == [f"{folder}/0.png"]
    assert "1 subfolders left out that are links, such as" in open_images(folder)[1].notes[0]
    followed = open_images(folder, follow_links=True)
    assert names(followed) == [f"{folder}/0.png", f"{folder}/linked/0.png"]
    ((first, second),) = loaded_ahead([followed], lambda pixels, name: pixels, 4)
    np.testing.assert_array_equal(first[1], second[1])


def test_what_is_no_image_is_told_what_it_is(tmp_path):
    with lmdb.open(str(tmp_path / "words"), map_size=2**20):
        pass
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n")
    for name, reason in (
        ("https://host/a.jpg", "is an address, which is not fetched: download it"),
        (str(tmp_path / "words/data.mdb"), "is a file of an LMDB; give its folder"),
        (str(tmp_path / "none.jpg"), "no such image or folder"),
    ):
        with pytest.raises(UserError, match=reason):
            open_images(name)
    (((_, error),),) = loaded_ahead([open_images(str(tmp_path / "page.pdf"))], lambda pixels, name: pixels, 4)
    assert str(error) == "it is a PDF, not an image: save its pages as PNG or JPEG"
