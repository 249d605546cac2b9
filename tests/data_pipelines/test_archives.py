"""Files in archives are read as those in folders are, and what is wrong with an archive is an error of reading."""

from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest

from data_pipelines.errors import MissingError, OutsideError, RecordError
from data_pipelines.sources.archives import file_exists, names_in, read_file
from data_pipelines.sources.files import Annotations
from maerec_jax.reading.named_images import open_images


def write(path, *names, **how):
    with ZipFile(path, "w", **how) as archive:
        for name in names:
            archive.writestr(name, f"what is in {name}" * 9)


def test_files_are_read_from_archives(tmp_path):
    path = tmp_path / "a.zip"
    write(path, "0.jpg", "more/1.jpg")
    assert names_in(str(path)) == [f"{path}/0.jpg", f"{path}/more/1.jpg"]
    assert [read_file(name) for name in names_in(str(path))] == [b"what is in 0.jpg" * 9, b"what is in more/1.jpg" * 9]
    assert [file_exists(f"{path}{end}") for end in ("", "/0.jpg", "/2.jpg", ".zip/0.jpg")] == [True, True, False, False]
    _, images = open_images(str(path))
    assert (images.name(1), images[1].image) == (f"{path}/more/1.jpg", b"what is in more/1.jpg" * 9)
    path.unlink()
    write(path, "2.jpg")  # in its place
    assert read_file(f"{path}/2.jpg") == b"what is in 2.jpg" * 9


def test_a_damaged_archive_is_an_error_of_reading(tmp_path):
    write(tmp_path / "packed.zip", "0.jpg", compression=ZIP_BZIP2)
    write(tmp_path / "changed.zip", "0.jpg")
    data = (tmp_path / "changed.zip").read_bytes()
    (tmp_path / "changed.zip").write_bytes(data.replace(b"what", b"that", 1))
    (tmp_path / "cut.zip").write_bytes(data[:-30])
    for name, told in {"packed": "compressed by another", "changed": "Bad CRC-32", "cut": "not a zip file"}.items():
        with pytest.raises(OSError, match=told):
            read_file(f"{tmp_path}/{name}.zip/0.jpg")


@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED])
def test_any_damage_is_an_error_of_reading(compression, tmp_path):
    write(tmp_path / "0.zip", "a.jpg", compression=compression)
    data, found = (tmp_path / "0.zip").read_bytes(), set()
    for place in range(len(data)):
        path = tmp_path / f"{place}.zip"
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            found.add(read_file(f"{path}/a.jpg"))
        except OSError as error:
            found.add(type(error))
    assert found == {b"what is in a.jpg" * 9, OSError, FileNotFoundError}


def test_a_list_may_name_files_in_archives(tmp_path):
    (tmp_path / "set").mkdir()
    names = ["a.zip/0.jpg", "a.zip/1.jpg", "b.zip/0.jpg", "out.zip/0.jpg"]
    write(tmp_path / "set/a.zip", "0.jpg")
    write(tmp_path / "out.zip", "0.jpg")
    (tmp_path / "set/b.zip").write_bytes(b"no archive")
    (tmp_path / "set/out.zip").symlink_to(tmp_path / "out.zip")
    (tmp_path / "set/words.tsv").write_text("".join(f"{name}\tword\n" for name in names))
    source = Annotations("words.tsv").open(tmp_path / "set")
    assert source[0].image == b"what is in 0.jpg" * 9
    for index, error in enumerate((MissingError, RecordError, OutsideError), 1):
        with pytest.raises(error):
            source[index]
