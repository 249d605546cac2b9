"""Prepared sets give back what was put in, to training as to TFDS, and say what is wrong with damaged ones."""

import copy
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import ExifTags, Image
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.charset import Charset
from data_pipelines.errors import DataError, MissingError, RecordError
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.buckets import image_sizes
from data_pipelines.images.decoding import decode_image
from data_pipelines.overlaps.list_file import leave_out
from data_pipelines.pipeline import evaluation_batches, train_batches
from data_pipelines.prepared import Records, RecordSource
from data_pipelines.prepared.conversion import fingerprint, prepare_set
from data_pipelines.prepared.layout import Plan
from data_pipelines.sources.combining import Labels, Sources, Subset, drop_unknown_characters
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.records import MISSING, USED, Source, read_records
from data_pipelines.worker_processes import Workers
from maerec_jax.config import DataConfig, TrainConfig, read_json, to_json
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.data import make_decoder, open_training
from tests.data_pipelines.planting import found_in

LINES = "set/train_annos/mmocr1.0/train.jsonl"


def convert(spec, root, name="words", shard_records=5):
    """Prepare a source as a set under ``root``; returns what ``prepare_set`` does."""
    source = spec.open(root)
    labelled = source.text(0) is not None
    plan = Plan(name, "train", spec.path, len(source), fingerprint(source), labelled, shard_records)
    with Workers(0) as pool:
        return prepare_set(source, plan, epath.Path(root / "prepared" / name), pool, 0.5, lambda count: None)


def records(source):
    return [(source[index], source.text(index), source.name(index)) for index in range(len(source))]


@pytest.fixture
def prepared(dataset):
    """The root of ``dataset``, where ``prepared/words`` holds its twelve records in three shards."""
    convert(Annotations(LINES), dataset)
    return dataset


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", ["annotations", "lmdb", "labelled lmdb", "folder"])
def test_records_come_back_as_they_were(dataset, make_lmdb, kind):
    spec = {
        "annotations": Annotations(LINES),
        "lmdb": LmdbWords(path=make_lmdb("images", 17)),
        "labelled lmdb": LmdbWords(path=make_lmdb("words", 17, labelled=True)),
        "folder": Folder(path="set/full_images"),
    }[kind]
    convert(spec, dataset)
    original, source = spec.open(dataset), Records("prepared/words").open(dataset)
    assert isinstance(source, Source)
    assert records(source) == records(original)
    assert len(source.manifest.shards) == -(-len(original) // 5)
    assert records(pickle.loads(pickle.dumps(source))) == records(original)
    assert len(pickle.dumps(source)) < 5000
    assert source.sizes.tolist() == [[20 + n % 12, 50 + 3 * (n % 12)] for n in _numbers(original)]
    np.testing.assert_array_equal(image_sizes(source), image_sizes(original, 0))
    labels = None if original.text(0) is None else [original.text(index) for index in range(len(original))]
    assert (None if source.labels is None else list(source.labels)) == labels


def _numbers(source):
    """The number that each image of the fixtures tells by its name."""
    names = [source.name(index) for index in range(len(source))]
    return [int(name.split("-")[-1]) if "image-" in name else int(name[-6:-4]) for name in names]


def test_many_are_read_together_in_their_order(prepared, monkeypatch):
    monkeypatch.setattr("data_pipelines.prepared.source._TOGETHER", 3)
    source = Records("prepared/words").open(prepared)
    order = [11, 0, 3, 3, 7, 1, 2, 10, 5]
    assert read_records(source, order) == [source[index] for index in order]
    subset = Subset(source, np.array([9, 4, 2, 3, 1]))
    assert read_records(subset, [4, 0, 2, 3]) == [subset[index] for index in (4, 0, 2, 3)]
    both = Sources([subset, source, Annotations(LINES).open(prepared), Subset(source, np.arange(3))])
    order = np.random.default_rng(0).permutation(len(both)).tolist() * 2
    assert read_records(both, order) == [both[index] for index in order]
    assert read_records(both, []) == []
    with pytest.raises(IndexError):
        read_records(both, [len(both)])
    with pytest.raises(IndexError):
        source[12]
    with pytest.raises(IndexError):
        source[-1]


def test_forked_processes_open_their_own_shards(prepared):
    # Forked in a fresh interpreter: forking this one, which may run threads, is what the standard library warns of.
    script = (
        "import os, sys; from data_pipelines.prepared import Records\n"
        "from data_pipelines.sources.records import read_records\n"
        "source = Records('prepared/words').open(sys.argv[1]); first = source[0]; child = os.fork()\n"
        "same = source[0] == first and read_records(source, range(12))[0] == first\n"
        "if not child: os._exit(0 if same else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)"
    )
    subprocess.run([sys.executable, "-c", script, str(prepared)], check=True, timeout=60)


def test_training_sees_the_same_batches(prepared):
    """One line of a config is another; images and tokens are not, in any number of workers."""
    letters = Charset("".join(chr(c) for c in range(33, 127)))  # without the space in "two words"
    decoder = TextDecoderConfig.tiny(max_length=8)
    model = MAERecConfig(encoder=ViTConfig.tiny(), decoder=decoder, charset=letters)
    (prepared / "list.jsonl").write_text('{"train": "set/full_images/made/07.jpg"}\n')
    seen, told = [], []
    for spec, workers in ((Annotations(LINES), 0), (Records("prepared/words"), 0), (Records("prepared/words"), 1)):
        data = DataConfig(root=str(prepared), train=(spec,), exclude=("list.jsonl",))
        config = TrainConfig(model=model, data=data)
        told.append([])
        sources = open_training(config, told[-1].append)
        assert len(sources) == 10
        with train_batches(sources, make_decoder(config), batch_size=4, seed=3, num_workers=workers) as batches:
            seen.append([next(batches) for _ in range(6)])
    assert told[0] == told[1] == told[2]
    assert "1 records left out by list.jsonl" in told[0]
    for batches in zip(*seen, strict=True):
        for key in ("image", "valid", "tokens", "index"):
            np.testing.assert_array_equal(batches[0][key], batches[1][key])
            np.testing.assert_array_equal(batches[0][key], batches[2][key])


def test_a_config_with_records_is_saved_and_read(tmp_path):
    model = MAERecConfig(encoder=ViTConfig.tiny(), decoder=TextDecoderConfig.tiny())
    config = TrainConfig(model=model, data=DataConfig(train=(Records("prepared/words", weight=0.5),)))
    (tmp_path / "config.json").write_text(to_json(config))
    assert read_json(tmp_path / "config.json") == config


def test_exclusion_and_characters_work_as_on_the_original(prepared, make_lmdb):
    convert(LmdbWords(path=make_lmdb("images", 7)), prepared, "unlabelled")
    sources = Sources([Records(f"prepared/{name}").open(prepared) for name in ("words", "unlabelled")])
    names = {"set/full_images/made/03.jpg", "images:image-000000002"}
    kept, count, unknown = leave_out(sources, names | {"images:image-000000009"})
    assert (count, unknown) == (2, {"images:image-000000009"})
    assert not names & {kept.name(index) for index in range(len(kept))}
    originals = Sources([Annotations(LINES).open(prepared), LmdbWords(path="images").open(prepared)])
    known = "abcdefghijklmnopqrstuvwxyz "
    (left, one), (right, other) = (drop_unknown_characters(s, Labels(known, 99)) for s in (sources, originals))
    assert str(one) == str(other)
    assert records(left) == records(right)


def test_tfds_reads_a_set_without_tensorflow(prepared, dataset, words, jpeg):
    builder = tfds.builder_from_directory(str(prepared / "prepared/words"))
    assert builder.info.splits["train"].num_examples == 12
    assert builder.info.splits["train"].shard_lengths == [5, 5, 2]
    decoded = builder.as_data_source(split="train")
    raw = builder.as_data_source(split="train[:50%]", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(raw) == 6
    assert raw[5]["image"] == jpeg(5)
    assert [example["text"].decode() for example in decoded] == words
    assert decoded[3]["name"].decode() == "set/full_images/made/03.jpg"
    assert decoded[3]["image"].shape == (decoded[3]["height"], decoded[3]["width"], 3) == (23, 59, 3)
    unlabelled = convert(Folder(path="set/full_images"), dataset, "folder")
    features = tfds.builder_from_directory(str(dataset / "prepared/folder")).info.features
    assert set(features) == {"image", "name", "height", "width"}
    assert unlabelled.manifest.index.keys() == {"names.utf8", "names.npy", "sizes.npy"}
    plan = unlabelled.manifest.plan
    template = tfds.core.ShardedFileTemplate(
        prepared, dataset_name=plan.name, split=plan.split, filetype_suffix="array_record"
    )
    assert template.sharded_filepath(shard_index=1, num_shards=plan.shards).name == plan.shard_name(1)


def test_tfds_is_told_how_to_read_what_its_decoder_shows_otherwise(tmp_path):
    y, x = np.mgrid[:12, :30]
    picture = np.dstack([8 * x, 20 * y, 100 + x + y]).astype(np.uint8)
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(picture).save(tmp_path / "images/0.png", exif=exif)
    Image.fromarray(np.dstack([picture, picture[..., 0]])).save(tmp_path / "images/1.png")
    cv2.imwrite(str(tmp_path / "images/2.png"), picture.astype(np.uint16) * 256 + 77)
    convert(Folder(path="images"), tmp_path)
    builder = tfds.builder_from_directory(str(tmp_path / "prepared/words"))
    raw = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    source = Records("prepared/words").open(tmp_path)
    for index, own in enumerate(builder.as_data_source(split="train")):
        image = decode_image(raw[index]["image"])
        np.testing.assert_array_equal(image, decode_image(source[index].image))
        assert image.shape == (raw[index]["height"], raw[index]["width"], 3)
        assert own["image"].shape != image.shape or not np.array_equal(own["image"], image)
    told = builder.info.features["image"].doc.desc
    assert "SkipDecoding" in told
    assert "data_pipelines.images.decoding.decode_image" in told


def test_a_record_without_an_image_is_damage(prepared, monkeypatch):
    source, example = Records("prepared/words").open(prepared), tf_example_pb2.Example()
    example.features.feature["text"].bytes_list.value.append(b"word")
    data = example.SerializeToString()
    for record in (data, data[:-1], b"", b"\0"):
        monkeypatch.setattr(source, "_read_shard", lambda *_, record=record: [record])
        with pytest.raises(RecordError, match=r"00001-of-00003: is damaged \(.* not a tf\.train\.Example"):
            source[5]


@pytest.fixture
def shard(prepared):
    return prepared / "prepared/words/words-train.array_record-00001-of-00003"


def test_missing_and_cut_off_files_are_told_when_a_set_is_opened(prepared, shard):
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(DataError, match=r"00001-of-00003: has .* bytes instead of") as error:
        Records("prepared/words").open(prepared)
    assert "data_pipelines.check" in message(error)
    shard.unlink()
    with pytest.raises(MissingError, match="00001-of-00003: cannot be read"):
        Records("prepared/words").open(prepared)
    source = RecordSource.load(prepared / "prepared/words", "words")  # as if it had gone since
    with evaluation_batches(source, BatchDecoder(), batch_size=12) as batches:
        assert next(batches)["outcome"].tolist() == [USED] * 5 + [MISSING] * 5 + [USED] * 2
    shard.write_bytes(data)
    for name in ("names.utf8", "sizes.npy"):
        path = prepared / "prepared/words/index" / name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(DataError, match=rf"{name}: has .* bytes instead of"):
            Records("prepared/words").open(prepared)
        path.unlink()
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(No such file"):
            Records("prepared/words").open(prepared)
        path.write_bytes(content)
    assert records(Records("prepared/words").open(prepared)) == records(Annotations(LINES).open(prepared))


def test_a_flipped_bit_is_an_error_of_its_record_and_found_by_the_check(prepared, shard):
    data = bytearray(shard.read_bytes())
    data[120] ^= 4  # in the first record: 64 bytes of file header and 40 of its own come before it
    shard.write_bytes(data)
    source = Records("prepared/words").open(prepared)
    with pytest.raises(DataError, match=r"00001-of-00003: is damaged at record 0 \(.*hash mismatch\)") as error:
        source[5]
    assert "0x" not in message(error)
    assert source[6].text == source.text(6)  # the reader that met the damage would refuse this one, too
    with pytest.raises(DataError, match="00001-of-00003: is damaged"):
        read_records(copy.copy(source), range(12))
    with evaluation_batches(source, BatchDecoder(), batch_size=12) as batches:  # as in training, it is masked
        assert next(batches)["valid"].tolist() == [True] * 5 + [False] + [True] * 6
    report = found_in(prepared)["other prepared sets/words"]
    assert report.findings.counts["damaged_files"] == 1
    assert report.findings.counts["unreadable"] == 1
    assert "00001-of-00003" in report.findings.offenders["damaged_files"][0].detail
    assert report.findings.images == 11


def test_the_check_knows_prepared_sets_and_names_all_damage(prepared, shard):
    convert(Annotations(LINES), prepared, "train_easy")
    found = found_in(prepared, workers=2)
    assert found["Union14M-L/train_easy"].findings.images == 12
    assert found["Union14M-L/train_easy"].status == "sample"
    assert found["other prepared sets/words"].findings.problems == 0
    shard.unlink()
    index = prepared / "prepared/words/index/labels.utf8"
    index.write_bytes(index.read_bytes()[::-1])
    (prepared / "prepared/train_easy/index/sizes.npy").write_bytes(b"")
    (prepared / "prepared/half/.unfinished").mkdir(parents=True)
    found = found_in(prepared)
    words = found["other prepared sets/words"].findings
    assert (words.counts["damaged_files"], words.counts["missing"], words.images) == (2, 5, 7)
    assert "sizes.npy" in found["Union14M-L/train_easy"].findings.offenders["broken_files"][0].detail
    assert "is not finished" in found["other prepared sets/half"].findings.offenders["broken_files"][0].detail


def test_a_set_of_an_earlier_version_that_stored_smaller_copies_is_read(prepared):
    path = prepared / "prepared/words/records.json"
    text = path.read_text()
    assert text.count('"max_height": 0') == 1
    path.write_text(text.replace('"max_height": 0', '"max_height": 48'))
    assert records(Records("prepared/words").open(prepared)) == records(Annotations(LINES).open(prepared))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"plan": 3}'])
def test_a_folder_that_is_no_set_is_refused_in_a_line(prepared, text):
    with pytest.raises(DataError, match="is not a prepared set; give a folder"):
        Records("set").open(prepared)
    with pytest.raises(DataError, match="is not a prepared set; give a folder"):
        Records(LINES).open(prepared)
    (prepared / "prepared/words/records.json").write_text(text)
    with pytest.raises(DataError, match=r"records.json: is not a file of this version") as error:
        Records("prepared/words").open(prepared)
    message(error)


@pytest.mark.parametrize("root", ["gs://bucket", epath.Path("gs://bucket")])
def test_a_bucket_is_refused_with_advice(root):
    with pytest.raises(DataError, match="mount the bucket with gcsfuse"):
        Records("prepared/words").open(root)


def test_a_manifest_cannot_name_files_outside_its_folder(prepared):
    path = prepared / "prepared/words/records.json"
    path.write_text(path.read_text().replace('"name":"words"', '"name":"../words"').replace('"words"', '"../words"'))
    with pytest.raises(DataError, match=r"plan\.name"):
        RecordSource.load(path.parent, "words")
