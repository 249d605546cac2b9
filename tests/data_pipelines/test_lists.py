"""Lists of any usual form give the same records, and say in one line what is wrong with them and where."""

import json

import numpy as np
import pytest
from rich.console import Console

from data_pipelines.check import _place, check_places
from data_pipelines.errors import DataError, OutsideError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.annotations import read_annotations
from data_pipelines.sources.files import Annotations, LmdbWords
from data_pipelines.sources.list_fields import IMAGE_FIELDS, TEXT_FIELDS
from tests.data_pipelines.planting import RULES, counts, found_in, write_lmdb

RECORDS = [
    ("a.jpg", "word"),
    ("sub dir/b.PNG", ' two "words", 5 € '),
    ("ü.jpeg", "日本"),
    ("a.jpg", ""),
    ("c.jpg.webp", "www.photo.jpg x"),
]


def tabs(records, separator="\t", end="\n"):
    return "".join(f"{name}{separator}{text}{end}" for name, text in records)


def lines(records, image, text):
    return "".join(json.dumps({"id": 3, image: n, text: t}) + "\n" for n, t in records)


def listed(records, **settings):
    return json.dumps([{"image": n, "label": t, "size": {"w": 3}} for n, t in records], **settings)


NO_SPACES = [(name, text.strip()) for name, text in RECORDS]
UNIQUE = [record for record in RECORDS if record[1]]
SEVERAL = [("a.jpg", "x"), ("b.jpg", "y"), ("c d.jpg", "y"), ("[1]", "z")]
MJSYNTH = [("./2/5/114_Word_4.jpg", "Word"), ("./2/5/1_two_12.jpg", "two"), ("./2/5/1_12_9.jpg", "12")]
TASKS = [("1a2b-a.jpg", "x"), ("sub dir/b.png", "y")]


def task(texts, image="/data/upload/7/1a2b-a.jpg"):
    """A task as Label Studio exports it."""
    results = [{"type": "labels", "value": {}}, {"type": "textarea", "value": {"text": texts}}]
    return {"id": 3, "data": {"ocr": image, "shop": "A"}, "annotations": [{"id": 1, "result": results}]}


FORMS = {
    "tabs": ("list.txt", tabs(RECORDS), RECORDS),
    "doubled tabs": ("list.tsv", tabs(RECORDS, "\t\t"), RECORDS),
    "crlf": ("list.tsv", tabs(RECORDS, end="\r\n"), RECORDS),
    "no end": ("list.tsv", tabs(RECORDS[:3]).removesuffix("\n"), RECORDS[:3]),
    "empty lines": ("list", "\n \n" + tabs(RECORDS, end="\n\r\n\t\n"), RECORDS),
    "mark": ("list.txt", "\ufeff" + tabs(RECORDS), RECORDS),
    "mark and crlf": ("list.jsonl", "\ufeff" + lines(RECORDS, "image", "gt").replace("\n", "\r\n"), RECORDS),
    "spaces": ("gt.txt", tabs(RECORDS, " "), [(name, text.lstrip()) for name, text in RECORDS]),
    "many spaces": ("gt.txt", tabs(RECORDS, "   "), [(name, text.lstrip()) for name, text in RECORDS]),
    "lines": ("list.jsonl", lines(RECORDS, "image", "label"), RECORDS),
    "lines in json": ("list.json", lines(RECORDS, "img_path", "transcription"), RECORDS),
    "list": ("list.json", listed(RECORDS), RECORDS),
    "list on lines": ("list.txt", "\n" + listed(RECORDS, indent=1, ensure_ascii=False), RECORDS),
    "object": ("list.json", json.dumps(dict(UNIQUE)), UNIQUE),
    "object on lines": ("list", json.dumps(dict(UNIQUE), indent=3), UNIQUE),
    "object with a name twice": ("list.json", '{"a.jpg": "x", "a.jpg": "y"}', [("a.jpg", "x"), ("a.jpg", "y")]),
    "windows": ("list.txt", "sub\\dir\\a.jpg\tback\\slash\n", [("sub/dir/a.jpg", "back\\slash")]),
    "table": (
        "list.csv",
        'id,FileName,Text\n1,a.jpg,"x, ""y"""\n\n2,"b, c.jpg", z \n',
        [("a.jpg", 'x, "y"'), ("b, c.jpg", " z ")],
    ),
    "table with semicolons": ("list.txt", "label;image\r\nx,y;a.jpg\r\n", [("a.jpg", "x,y")]),
    "table with tabs": ("list.tsv", 'path\ttext\tsize\na.jpg\t"x"\t3\n', [("a.jpg", '"x"')]),
    "several images a label": ("list.txt", 'a.jpg\tx\n["b.jpg", "c d.jpg"]\ty\n[1]\tz\n', SEVERAL),
    "several at first": ("list.txt", '["b.jpg", "c d.jpg"]\ty\n[1]\tz\n', SEVERAL[1:]),
    "mjsynth": ("annotation.txt", "./2/5/114_Word_4.jpg 4\n./2/5/1_two_12.jpg 12\n./2/5/1_12_9.jpg 12\n", MJSYNTH),
    "label studio": (
        "list.json",
        json.dumps([task(["x"]), task(["y"], "/data/local-files/?d=sub%20dir/b.png")]),
        TASKS,
    ),
    "empty": ("list.txt", "", []),
    "empty list": ("list.json", " [ ] ", []),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_its_records(tmp_path, form):
    name, text, records = FORMS[form]
    (tmp_path / name).write_bytes(text.encode())
    listing = read_annotations(tmp_path / name)
    assert list(zip(listing.names, listing.texts, strict=True)) == records


@pytest.mark.parametrize("image", IMAGE_FIELDS)
@pytest.mark.parametrize("text", TEXT_FIELDS)
def test_usual_fields_are_understood_and_others_can_be_named(tmp_path, image, text):
    (tmp_path / "list.jsonl").write_text(lines(RECORDS, image, text))
    (tmp_path / "other.jsonl").write_text(lines(RECORDS, "im", "characters"))
    listing = read_annotations(tmp_path / "list.jsonl")
    named = read_annotations(tmp_path / "other.jsonl", image_field="im", text_field="characters")
    assert (listing.names, listing.texts) == (named.names, named.texts)
    assert list(listing.texts) == [text for _, text in RECORDS]


def test_names_alone_are_an_unlabelled_source(tmp_path, jpeg):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / f"images/{number} a.jpg").write_bytes(jpeg(number))
    (tmp_path / "list.txt").write_text("images/0 a.jpg\r\n\n  images/2 a.jpg \nimages/1 a.jpg")
    source = Annotations("list.txt").open(tmp_path)
    assert [source[index] for index in range(len(source))] == [(jpeg(number), None) for number in (0, 2, 1)]
    assert source.name(1) == "images/2 a.jpg"
    assert source.text(0) is None
    assert source.part(1, 3)[0].image == jpeg(2)


def test_a_format_can_be_set(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg b.jpg\nb.jpg word\n")
    with pytest.raises(DataError, match=r"list\.txt:2: does not end like an image file"):
        read_annotations(tmp_path / "list.txt")
    listing = read_annotations(tmp_path / "list.txt", format="space")
    assert list(listing.texts) == ["b.jpg", "word"]


BAD = {
    "a.jpg\tx\nb.jpg\n": ":2: has no tab; expected path, tab, label",
    "a.jpg\tx\nb.jpg\ty\tz\n": ":2: has a third column",
    "a.jpg\tx\n\n\tx\n": ":3: '' is not a file name",
    "a.jpg\tx\nb\0.jpg\tx\n": r":2: 'b\x00.jpg' is not a file name",
    "a.jpg\tx\nb.jpg\t\xff\n": ":2: is not valid UTF-8",
    "a.jpg\tx\n../b.jpg\tx\n": ":2: the name '../b.jpg' points outside the dataset's folder",
    "a.jpg\tx\n..\\b.jpg\tx\n": ":2: the name '../b.jpg' points outside the dataset's folder",
    "a.jpg\tx\nC:\\b.jpg\tx\n": ":2: the name 'C:/b.jpg' points outside the dataset's folder",
    "a.jpg\tx\n/b.jpg\tx\n": ":2: the name '/b.jpg' points outside the dataset's folder",
    "a.jpg x\nb x\n": ":2: has no label after the name of an image file",
    "a.jpg\nb.jpg\tx\n": ":2: has a tab; expected the path of an image and nothing else",
    'word_1.png, "Word"\n': ": its first line 'word_1.png, \"Word\"' has no known format; give an annotation file",
    '{"im": "a.jpg", "lab": "x"}\n{"im": "b.jpg", "lab": "x"}\n': "but 'im', 'lab': set image_field",
    '{"image": "a.jpg", "lab": "x"}\n': ":1: has none of the fields 'text', 'label', 'transcription', 'gt' but 'image'",
    '{"image": "a.jpg", "path": "b", "text": "x"}\n': ":1: has the fields 'image', 'path': set",
    '{"image": "a.jpg", "gt": "x"}\n{"image": "a.jpg", "text": "x"}\n': ":2: has no 'gt' but 'image', 'text'",
    '[{"image": "a.jpg", "gt": "x"}, {"image": "a.jpg"}]': ": [1]: has no 'gt' but 'image'; expected [{",
    '[{"image": "a.jpg", "gt": "x"},\n {"image"': ":2: is not valid JSON",
    '[{"image": "a.jpg", "gt": "x"}]\n3': ":2: is not valid JSON (Extra data",
    '["a.jpg", "b.jpg"]': ": [0]: is not a JSON object",
    '{"a.jpg": "x",\n "b.jpg": 3}': ": entry 1: name and text must be strings",
    '{"a.jpg": "x", 3}': ":1: is not valid JSON",
    '{"data": [{"image": "a.jpg"}]}': ": has no \"data_list\", but 'data'; expected",
    "image,label\na.jpg,x,y\n": ":2: has 3 columns where the header has 2: quote cells that hold ','; expected",
    'image,label\na.jpg,"x\n': ":2: is not a row of a table (unexpected end of data)",
    "image,path,label\na.jpg,b.jpg,x\n": ":2: has the fields 'image', 'path': set image_field",
    'a.jpg\tx\nb.jpg\t[{"transcription": "x", "points": []}]\n': ":2: lists the words of a whole picture: cut them out",
    "a.jpg\tx\nhttps://host/b.jpg\tx\n": ":2: 'https://host/b.jpg' is an address, which is not fetched",
    '{"data_list": [{"img_path": "a.jpg", "instances": [{"text": "x"}, {}]}]}': ": data_list[0]: has 2 instances",
    '{"data_list": [{"img_path": "a.jpg", "instances": {}}]}': ": data_list[0]: has no list of instances",
    json.dumps([task(["x", "y"])]): ": [0]: is a task of Label Studio with 1 images and 2 texts",
    json.dumps([{"data": 3, "annotations": 3}]): ": [0]: is not a task of Label Studio",
    "a\0.jpg\0\t\0x\0": ": its first line holds NUL bytes: give an annotation file, saved as UTF-8",
    "\xff\xfea": ": is not valid UTF-16 (truncated data); save it as UTF-8",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_said_with_file_and_place(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as error:
        read_annotations(path)
    assert str(error.value).startswith(f"{path}{BAD[text]}") or BAD[text].startswith("but ")
    assert BAD[text] in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, OutsideError) == ("points outside" in BAD[text])


def test_a_list_that_cannot_be_read_is_an_error_of_one_line(tmp_path):
    (tmp_path / "list.txt").mkdir()
    with pytest.raises(DataError, match=r"list\.txt: cannot be read \(Is a directory\); give an annotation file"):
        Annotations("list.txt").open(tmp_path)


def test_a_list_without_permission_is_an_error_of_one_line(tmp_path, permissions):
    (tmp_path / "list.txt").write_text("a.jpg\n")
    (tmp_path / "list.txt").chmod(0)
    with pytest.raises(DataError, match=r"list\.txt: cannot be read \(Permission denied\)"):
        Annotations("list.txt").open(tmp_path)


@pytest.mark.parametrize("form", ["tabs", "crlf", "list", "object", "lines", "spaces", "mark"])
def test_the_place_of_every_record_can_be_told(tmp_path, form, jpeg):
    name, text, records = FORMS[form]
    (tmp_path / name).write_bytes(("\n" * 2).encode() + text.encode())
    (tmp_path / "sub dir").mkdir()
    for file, _ in records:
        (tmp_path / file).write_bytes(jpeg(0))
    source = Annotations(name).open(tmp_path)
    for index in range(len(source)):
        place = source.origin(index)
        if form in ("list", "object"):
            assert place == f"{tmp_path / name}: " + (f"[{index}]" if form == "list" else f"entry {index}")
        else:
            assert place == f"{tmp_path / name}:{index + 3}"
    assert source.part(2, 4).origin(1) == source.origin(3)


def test_places_of_rows_and_of_several_images_in_a_line(tmp_path, jpeg):
    for name in ("a.jpg", "b.jpg", "c d.jpg", "[1]", "b, c.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    for form, lines_of in (("table", [2, 4]), ("several images a label", [1, 2, 2, 3])):
        name, text, _ = FORMS[form]
        (tmp_path / name).write_text(text)
        source = Annotations(name).open(tmp_path)
        assert [source.origin(i) for i in range(len(source))] == [f"{tmp_path / name}:{line}" for line in lines_of]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("form", ["tabs", "lines", "list", "crlf", "table"])
def test_utf_16_is_read_where_a_mark_says_so_and_named_elsewhere(tmp_path, form, encoding):
    name, text, records = FORMS[form]
    path = tmp_path / name
    path.write_bytes((text if encoding == "utf-16" else "\ufeff" + text).encode(encoding))
    listing = read_annotations(path)
    assert list(zip(listing.names, listing.texts, strict=True)) == records
    path.write_bytes(text.encode("utf-16-le"))
    with pytest.raises(DataError, match="UTF-8"):
        read_annotations(path)


def test_absolute_names_within_the_root_are_read(tmp_path, jpeg):
    real, linked = tmp_path / "real", tmp_path / "linked"
    (real / "set/img").mkdir(parents=True)
    linked.symlink_to(real)
    names = [real / "set/img/0.jpg", linked / "set/img/1.jpg", "img/2.jpg"]
    for number in range(3):
        (real / f"set/img/{number}.jpg").write_bytes(jpeg(number))
    (real / "set/list.txt").write_text("".join(f"{name}\tword\n" for name in names))
    source = Annotations("set/list.txt").open(linked)
    assert [source[index].image for index in range(3)] == [jpeg(number) for number in range(3)]
    assert "real" not in source.names[0]
    (report,) = check_places(linked, [_place(linked, "set/list.txt")], RULES, 0, Console(quiet=True))
    assert (report.findings.images, counts(report)) == (3, {})
    for name in (tmp_path / "other.jpg", f"{real}/../other.jpg", f"{real}2/a.jpg"):
        (real / "set/list.txt").write_text(f"{name}\tword\n")
        with pytest.raises(OutsideError, match="points outside"):
            Annotations("set/list.txt").open(real)


def test_what_is_no_list_is_told_what_it_is(tmp_path, make_lmdb, jpeg):
    path = make_lmdb("words", 3)
    with pytest.raises(DataError, match=r"data\.mdb: is a file of an LMDB; give its folder"):
        Annotations(f"{path}/data.mdb").open(tmp_path)
    with pytest.raises(DataError, match=r"https://host/list\.txt: is an address, which is not fetched"):
        Annotations("https://host/list.txt").open(tmp_path)


@pytest.mark.parametrize("form", ["tabs", "spaces", "lines", "list", "object", "names"])
def test_mutated_lists_are_read_or_refused_but_never_another_error(tmp_path, form):
    text = tabs(RECORDS[:3], "") if form == "names" else FORMS[form][1]
    path, data = tmp_path / "list.txt", text.encode()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 6)):
            place = rng.integers(len(damaged))
            damaged[place : place + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
            damaged = damaged or bytearray(b" ")
        path.write_bytes(damaged)
        errors = []
        listing = read_annotations(path, errors.append)
        assert all(isinstance(error, DataError) and "\n" not in str(error) for error in errors)
        assert isinstance(listing.names, PackedStrings)
        if listing.texts is not None:
            assert len(listing.names) == len(listing.texts)
        assert not any(name.startswith("/") or ".." in name.split("/") for name in listing.names)
        if errors:
            with pytest.raises(DataError):
                read_annotations(path)


@pytest.mark.parametrize("ending", ["jsonl", "json", "tsv", "txt"])
@pytest.mark.parametrize("place", ["Union14M-L/Union14M-Benchmarks/curve/annotation", "evaluation/IIIT5K/gt"])
def test_the_check_finds_lists_of_every_form(tmp_path, jpeg, place, ending):
    path = tmp_path / f"{place}.{ending}"
    path.parent.mkdir(parents=True)
    records = [("1.jpg", "a"), ("2.jpg", "b"), ("3.jpg", "c")]
    for number, (name, _) in enumerate(records[:2]):
        (path.parent / name).write_bytes(jpeg(number))
    text = {"jsonl": lines(records, "image", "text"), "json": listed(records), "txt": tabs(records, " ")}
    path.write_text(text.get(ending, tabs(records)))
    (tmp_path / "README.txt").write_text("nothing to read here")
    (report,) = found_in(tmp_path).values()
    assert (report.findings.records, report.findings.images, counts(report)) == (3, 2, {"missing": 1})
    path.write_text("1.jpg\n2.jpg\n" if ending == "txt" else text.get(ending, tabs(records)) + "\n{")
    (report,) = found_in(tmp_path).values()
    assert counts(report) == ({"broken_files": 1} if ending == "txt" else {"malformed": 1, "missing": 1})


@pytest.mark.parametrize("count", [3, ""])
@pytest.mark.parametrize("name", ["train_easy", "filter_train_easy", "evaluation/IIIT5K", "MJ/MJ_train"])
def test_labelled_lmdbs_are_read_as_published(tmp_path, jpeg, name, count):
    """As Union14M-L-Filter, PARSeq, CLOVA and OpenOCR publish them: sizes of images may stand beside them."""
    write_lmdb(tmp_path / name, {n: jpeg(n) for n in (1, 2, 3)}, {n: f"wörd{n}".encode() for n in (1, 2, 3)}, count)
    source = LmdbWords(name).open(tmp_path)
    assert [source[index] for index in range(len(source))] == [(jpeg(n), f"wörd{n}") for n in (1, 2, 3)]
    assert len(source.notes) == (count == "")
