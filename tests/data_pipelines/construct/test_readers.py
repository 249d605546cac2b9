"""Readers of annotations: the same words in each form; what is in no form is told with its place."""

import json

import numpy as np
import pytest

from data_pipelines.construct.readers.forms import READERS
from data_pipelines.construct.readers.pictures import MarkedWord
from data_pipelines.errors import DataError

BOX = [[10, 20], [60, 20], [60, 40], [10, 40]]
BENT = [[1, 2], [8, 0], [15, 2], [15, 9], [8, 7], [1, 9]]
FLAT, FLAT_BENT = ([number for corner in polygon for number in corner] for polygon in (BOX, BENT))
UPRIGHT = [10, 20, 50, 20]  # of BOX: left, top, width, height


def coco_text(shown, hidden):
    return {
        "imgs": {"7": {"file_name": "a.jpg"}, "8": {"file_name": "b.jpg"}},
        "imgToAnns": {"7": [1, 2]},
        "anns": {"1": shown, "2": hidden},
    }


def studio(kind, value, text):
    shape = {"id": text, "type": kind, "original_width": 200, "original_height": 100, "value": value}
    typed = {"id": text, "type": "textarea", "value": {**value, "text": [text]}}
    return [shape, typed] if text else [shape]


FORMS = {
    "coco_text": coco_text(
        {"mask": FLAT, "bbox": [0, 0, 1, 1], "utf8_string": "Shop", "legibility": "legible"},
        {"bbox": UPRIGHT, "legibility": "illegible"},
    ),
    "textocr": coco_text({"points": FLAT, "utf8_string": "Shop"}, {"bbox": UPRIGHT, "utf8_string": "."}),
    "hiertext": {
        "annotations": [
            {
                "image_id": "a",
                "paragraphs": [
                    {
                        "lines": [
                            {"words": [{"vertices": BOX, "text": "Shop", "legible": True}]},
                            {"words": [{"vertices": BOX, "text": "", "legible": False}]},
                        ]
                    }
                ],
            },
            {"image_id": "b", "paragraphs": []},
        ]
    },
    "lsvt": {
        "a": [
            {"points": BOX, "transcription": "Shop", "illegibility": False},
            {"points": BOX, "transcription": "###", "illegibility": True},
        ],
        "b": [],
    },
    "mmocr": {
        "metainfo": {"dataset_type": "TextSpottingDataset"},
        "data_list": [
            {
                "img_path": "a.jpg",
                "instances": [
                    {"polygon": FLAT, "text": "Shop", "ignore": False},
                    {"bbox": [10, 20, 60, 40], "ignore": True},
                ],
            },
            {"img_path": "b.jpg", "instances": []},
        ],
    },
}
ANNOTATIONS = [
    {"segmentation": [FLAT], "iscrowd": 0, "text": "Shop", "image_id": 3},
    {"bbox": UPRIGHT, "iscrowd": 1, "image_id": 3},
]


def test_the_same_words_in_each_json_form(tmp_path):
    FORMS["art"] = FORMS["lsvt"]
    for form, document in FORMS.items():
        (tmp_path / "list.json").write_text(json.dumps(document))
        one, two = READERS[form](tmp_path / "list.json")
        assert (one.name.removesuffix(".jpg"), two.name.removesuffix(".jpg"), two.words) == ("a", "b", [])
        shown, hidden = one.words
        assert shown == MarkedWord(BOX, "Shop")
        assert hidden.polygon == BOX
        assert hidden.mark == ("ignored" if form == "mmocr" else "illegible")


def test_both_forms_of_mmocr_0(tmp_path):
    path = tmp_path / "list.json"
    images = [{"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "b.jpg"}]
    path.write_text(json.dumps({"images": images, "annotations": ANNOTATIONS, "categories": []}))
    pictures = list(READERS["mmocr"](path))
    assert pictures[0].words == [MarkedWord(BOX, "Shop"), MarkedWord(BOX, None, "ignored")]
    lines = [{"file_name": "a.jpg", "annotations": ANNOTATIONS}, {"file_name": "b.jpg", "annotations": []}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert list(READERS["mmocr"](path)) == pictures
    path.write_text(json.dumps(lines[0]))
    assert list(READERS["mmocr"](path)) == pictures[:1]


def test_label_studio_regions_are_percents_and_may_be_turned(tmp_path):
    box = {"x": 5, "y": 20, "width": 25, "height": 20}
    polygon = {"points": [[x / 2, y] for x, y in BENT]}
    turned = {**box, "rotation": 90}
    results = [
        *studio("rectanglelabels", {**box, "rotation": 0}, "Shop"),
        *studio("polygonlabels", polygon, "bent"),
        *studio("rectangle", turned, ""),
    ]
    task = {
        "data": {"ocr": "/data/upload/3/1a-my%20shop.jpg", "note": "x"},
        "annotations": [{"result": results}, {"result": [{}], "was_cancelled": True}],
    }
    (tmp_path / "export.json").write_text(json.dumps([task]))
    (picture,) = READERS["label_studio"](tmp_path / "export.json")
    shown, bent, down = picture.words
    assert picture.name == "1a-my shop.jpg"
    assert shown == MarkedWord(BOX, "Shop")
    assert bent == MarkedWord(BENT, "bent")
    assert down.text is None
    assert np.round(down.polygon, 9).tolist() == [[10, 20], [10, 70], [-10, 70], [-10, 20]]


def test_ppocr_label_file(tmp_path):
    words = [
        {"transcription": "Shop", "points": BOX, "difficult": False},
        {"transcription": "x", "points": BENT, "difficult": True},
        {"transcription": "*", "points": [[1, 2], [3]]},
    ]
    (tmp_path / "Label.txt").write_text(f"folder/a.jpg\t{json.dumps(words)}\n\n", encoding="utf-8-sig")
    (picture,) = READERS["ppocr"](tmp_path / "Label.txt")
    assert picture.name == "folder/a.jpg"
    expected = [MarkedWord(BOX, "Shop"), MarkedWord(BENT, "x", "ignored"), MarkedWord([], "*", "illegible")]
    assert picture.words == expected


@pytest.mark.parametrize(
    ("form", "lines", "texts"),
    [
        ("icdar2013", '10 20 60 40 "Shop"\n10, 20, 60, 40, "a "b", c"\n', ["Shop", 'a "b", c']),
        ("icdar2015", "10,20,60,20,60,40,10,40,Shop\r\n10,20,60,20,60,40,10,40,a, b\n", ["Shop", "a, b"]),
        ("icdar2017", "10,20,60,20,60,40,10,40,Latin,Shop\n10,20,60,20,60,40,10,40,None,a,b\n", ["Shop", "a,b"]),
    ],
)
def test_icdar_folders(form, lines, texts, tmp_path):
    (tmp_path / "gt_img_1.txt").write_text(lines, encoding="utf-8-sig", newline="")
    (picture,) = READERS[form](tmp_path)
    assert picture.name == "img_1"
    assert picture.words == [MarkedWord(BOX, text) for text in texts]
    (tmp_path / "gt_img_2.txt").write_text("10,20,Shop\n")
    with pytest.raises(DataError, match=r"gt_img_2.txt:1: .*expected "):
        list(READERS[form](tmp_path))
    with pytest.raises(DataError, match="has no text files"):
        list(READERS[form](tmp_path / "none"))


@pytest.mark.parametrize(
    ("form", "text", "told"),
    [
        ("coco_text", "[1]", "list.json: .*expected "),
        ("coco_text", '{"imgs": {"7": {}}, "imgToAnns": {}, "anns": {}}', "list.json: picture 7: has no 'file_name'"),
        ("textocr", json.dumps(FORMS["coco_text"]), "list.json: picture 7: has no 'points'|picture 7"),
        ("hiertext", '{"annotations": [{"image_id": "a"}]}', r"annotations\[0\]: has no 'paragraphs'"),
        ("lsvt", '{"a": [{"points": [], "transcription": 5}]}', "list.json: a: the text 5 is no string"),
        ("mmocr", '{"data_list": [{"img_path": "a"}]}', r"data_list\[0\]: has no 'instances'"),
        ("mmocr", '{"file_name": "a", "annotations": []}\n{"file_name": 1}', "list.json:2: has no 'annotations'"),
        ("label_studio", '[{"data": {}}]', r"list.json: \[0\]: "),
        ("ppocr", "a.jpg\t[]\nb.jpg", "list.json:2: "),
        ("hiertext", "{", "list.json: .*expected a JSON document"),
    ],
)
def test_what_is_in_another_form_is_told_with_its_place(form, text, told, tmp_path):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DataError, match=told):
        list(READERS[form](tmp_path / "list.json"))
