"""The command that finds overlaps, the lists that it writes, and runs that leave listed records out."""

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import lmdb
import pytest

from data_pipelines.charset import Charset
from data_pipelines.command import run_command
from data_pipelines.errors import DataError
from data_pipelines.find_overlaps import Arguments, run
from data_pipelines.overlaps.list_file import leave_out, read_list
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.data import open_training, open_validation


def encode(image, quality):
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.fixture
def sets(dataset, make_lmdb):
    """The ``dataset`` with twelve words for images, a folder with copies of three of them, and an LMDB with one."""
    source = RenderedWords(size=12, min_length=5, max_length=9, difficulty=0.2).open()  # none of them faint or small
    for number in range(12):
        (dataset / f"set/full_images/made/{number:02d}.jpg").write_bytes(encode(source[number].image, 95))
    (dataset / "bench").mkdir()
    for number in (1, 4, 7):
        data = encode(source[number].image[1:, 2:], 60)
        (dataset / f"bench/{number}.jpg").write_bytes(data)
    name = make_lmdb("words", 3)
    with lmdb.open(str(dataset / name)) as environment, environment.begin(write=True) as writer:
        writer.put(b"image-%09d" % 2, (dataset / "bench/4.jpg").read_bytes())
    return dataset


TRAIN = ("set/train_annos/mmocr1.0/train.jsonl", "words")


def test_command_writes_the_list_in_any_number_of_processes(sets):
    lines = []
    for workers in (0, 2):
        out = sets / f"lists/{workers}.jsonl"
        run(Arguments(TRAIN, ("bench",), str(sets), str(out), workers))
        lines.append(out.read_text())
    assert lines[0] == lines[1]
    assert {(o.train, o.benchmark, o.kind) for o in read_list(out)} == {
        *((f"set/full_images/made/{n:02d}.jpg", f"bench/{n}.jpg", "pixels") for n in (1, 4, 7)),
        ("words:image-000000002", "bench/4.jpg", "bytes"),
    }
    assert sorted(p.name for p in (sets / "lists").iterdir()) == ["0.jsonl", "2.jsonl"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--train", "bench", "--benchmark", "no-such"], "no-such: does not exist"),
        (["--train", "bench/1.jpg", "--benchmark", "bench"], "give an annotation file"),
        (["--train", "bench", "--benchmark", "bench", "--workers", "-1"], "--workers must not be negative"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(sets, flags, told, capsys):
    assert run_command(Arguments, run, "find", ["--root", str(sets), "--out", str(sets / "o"), *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not (sets / "o").exists()


def test_command_runs_as_a_module_and_ends_with_a_status(sets):
    command = [sys.executable, "-m", "data_pipelines.find_overlaps"]
    done = subprocess.run([*command, "--train", "no-such", "--benchmark", "no-such"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no-such: does not exist")


def test_listed_records_are_left_out_of_every_kind_of_source(sets):
    rendered = RenderedWords(size=10**9, weight=0.25)
    specs = [Annotations(path=TRAIN[0], weight=0.5), LmdbWords(path="words"), Folder(path="bench"), rendered]
    sources = Sources.open(specs, sets)
    names = {"set/full_images/made/03.jpg", "words:image-000000001", "bench/7.jpg"}
    kept, count, unknown = leave_out(sources, names | {"words:image-000000009", "other/set/full_images/made/03.jpg"})
    assert count == 3
    assert unknown == {"words:image-000000009", "other/set/full_images/made/03.jpg"}
    assert [len(s) for s in kept.sources] == [11, 2, 2, 10**9]
    assert kept.weights == sources.weights
    assert not names & {s.name(i) for s in kept.sources[:3] for i in range(len(s))}
    again, count, unknown = leave_out(kept, names)  # of a subset, names that are already gone are known
    assert (count, unknown) == (0, set())
    assert again.sources == kept.sources
    with pytest.raises(DataError, match="all 2 records with it are excluded"):
        leave_out(kept, {"bench/1.jpg", "bench/4.jpg"})


def test_training_leaves_out_what_its_config_excludes(sets):
    letters = Charset("".join(chr(c) for c in range(33, 127)))  # without the space in "two words", record 4
    model = MAERecConfig(encoder=ViTConfig.tiny(), decoder=TextDecoderConfig.tiny(), charset=letters)
    listed = ["set/full_images/made/01.jpg", "set/full_images/made/04.jpg", "gone.jpg"]
    (sets / "list.jsonl").write_text("".join(json.dumps({"train": name}) + "\n" for name in listed))
    data = DataConfig(root=str(sets), train=(Annotations(path=TRAIN[0]),), exclude=("list.jsonl",))
    config, told = TrainConfig(model=model, data=data), []
    sources = open_training(config, told.append)
    assert len(sources) == 10
    assert told[-2:] == [
        "1 records left out by list.jsonl",
        "1 of 3 excluded names are in no training source, such as gone.jpg",
    ]
    held_out = replace(config, data=replace(data, validation=data.train))
    assert len(open_validation(held_out, sources, told.append)) == 11  # validation: everything counts
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read"):
        open_training(replace(config, data=replace(data, exclude=("none.jsonl",))), told.append)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"train": "a"', "Invalid JSON"),
        (b'["a"]', "Input should be an object"),
        (b'{"benchmark": "a"}', "train: Field required"),
        (b'{"train": 3}', "train: Input should be a valid string"),
        (b'{"train": "a", "kind": "guess"}', "kind: Input should be 'bytes', 'label', 'pixels', "),
        (b'{"train": "a", "correlation": "high"}', "correlation: Input should be a valid number"),
        (b'{"train": "\xff"}', "invalid unicode code point"),
    ],
)
def test_lists_name_the_line_that_they_cannot_use(tmp_path, line, problem):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b'{"train": "fine"}\n\n' + line + b"\n")
    with pytest.raises(DataError) as error:
        list(read_list(path))
    assert str(error.value).startswith(f"{path}:3: ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
