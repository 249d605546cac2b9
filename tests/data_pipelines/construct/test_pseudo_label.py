"""Labels are what all recognisers read, and every other word is counted by the reason."""

import json

from data_pipelines.construct import __main__ as construct

READ = {
    "a.jpg": (("Bar", 0.9), ("Bar", 0.8)),
    "b.jpg": (("Bar", 0.9), ("bar", 0.9)),
    "c.jpg": (("", 0.0), ("", 0.0)),
    "d.jpg": (("caf\u00e9", 0.9), ("cafe\u0301", 0.9)),
    "e.jpg": (("low", 0.9), ("low", 0.4)),
}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def run(folder, *readings):
    words = write(folder / "words.jsonl", ({"filename": name, "text": None, "picture": "p"} for name in READ))
    out = str(folder / "labelled.jsonl")
    flags = ["--out", out, "--min-confidence", "0.5", "--workers", "0"]
    return construct.main(["pseudo-label", words, "--readings", *readings, *flags])


def test_words_that_all_read_alike_are_labelled(tmp_path):
    readings = [
        write(tmp_path / f"{k}.jsonl", ({"file": n, "text": r[k][0], "confidence": r[k][1]} for n, r in READ.items()))
        for k in range(2)
    ]
    assert run(tmp_path, *readings) == 0
    labelled = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    assert [(word["filename"], word["text"], word["confidences"]) for word in labelled] == [
        ("a.jpg", "Bar", [0.9, 0.8]),
        ("d.jpg", "caf\u00e9", [0.9, 0.9]),
    ]
    assert labelled[0]["picture"] == "p"
    dropped = {"recognisers differ": 1, "nothing was read": 1, "a confidence below 0.5": 1}
    assert json.loads((tmp_path / "labelled.report.json").read_text())["dropped"] == dropped


def test_one_recogniser_is_not_enough(tmp_path, capsys):
    assert run(tmp_path, "one.jsonl") == 1
    assert "at least two recognisers" in capsys.readouterr().err
    assert run(tmp_path, "one.jsonl", "two.jsonl") == 1
    assert "one.jsonl: cannot be read: No such file" in capsys.readouterr().err
