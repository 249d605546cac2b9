"""Small data sets with damage in them, and what the check finds there."""

import json

import lmdb
from rich.console import Console

from data_pipelines.charset import MAEREC_CHARACTERS
from data_pipelines.check import check_places
from data_pipelines.checking.inspecting import Rules
from data_pipelines.union14m.catalogue import locate

RULES = Rules(MAEREC_CHARACTERS, 46, 3)


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"filename": name, "text": text}) + "\n" for name, text in records))


def write_document(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"img_path": name, "instances": [{"text": text}]} for name, text in records]
    path.write_text(json.dumps({"metainfo": {}, "data_list": entries}))


def write_lmdb(path, images, labels=None, stated=None):
    """An LMDB with images and labels by number; ``stated`` is num-samples, the count of images by default."""
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**25) as environment, environment.begin(write=True) as writer:
        if stated != "":
            writer.put(b"num-samples", str(len(images) if stated is None else stated).encode())
        for number, image in images.items():
            writer.put(b"image-%09d" % number, image)
        for number, label in (labels or {}).items():
            writer.put(b"label-%09d" % number, label)


def found_in(root, workers=0, rules=RULES):
    places, _ = locate(root)
    reports = check_places(root, places, rules, workers, Console(quiet=True))
    return {report.name: report for report in reports}


def counts(report):
    return {kind: count for kind, count in report.findings.counts.items() if count}


def easy(root):
    return found_in(root)["Union14M-L/train_easy"]
