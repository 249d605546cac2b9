"""Lexicons: the tries hold the words, all of them and no others, and whatever cannot be read is told."""

import json
import re
import unicodedata

import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from maerec_jax.reading.lexicon import Lexicon

CHARSET = Charset("abcABC- ")


def spelt(lexicon, charset, root):
    """All that can be written below a root, as folded texts, with the words that end there."""
    trie, found = lexicon.trie, {}

    def walk(node, text):
        if trie.word[node] >= 0:
            found[text] = lexicon.word(node)
        children = range(trie.first_child[node], trie.first_child[node + 1])
        labels = [int(trie.label[child]) for child in children]
        assert len(set(labels)) == len(labels)
        for child, label in zip(children, labels, strict=True):
            walk(child, text + charset.characters[label])

    walk(root, "")
    return found


@pytest.mark.parametrize("ignore_case", [True, False])
def test_tries_hold_the_words_of_each_list_and_no_others(ignore_case):
    rng = np.random.default_rng(0)
    lists = {
        f"{i}.png": ["".join(rng.choice(list(CHARSET.characters), rng.integers(1, 13))) for _ in range(60)]
        + ["a", "ab"]
        for i in range(30)
    }
    lists["a.png"] = ["a"]
    lexicon = Lexicon.of(lists, CHARSET, 12, ignore_case)
    for name, words in lists.items():
        first = {}  # of the words that are the same but for case
        for word in words:
            first.setdefault(word.lower() if ignore_case else word, word)
        assert spelt(lexicon, CHARSET, lexicon.root_of(name)) == first
    trie = lexicon.trie
    nodes = len(trie.label)
    children = np.concatenate([np.arange(*pair) for pair in zip(trie.first_child, trie.first_child[1:], strict=False)])
    np.testing.assert_array_equal(children, np.arange(len(lists), nodes))  # each node but the roots has one parent
    leaves = trie.first_child[1:] == trie.first_child[:-1]
    assert (trie.word[leaves] >= 0).all()  # no dead ends
    folds = [CHARSET.characters[i].lower() if ignore_case else CHARSET.characters[i] for i in range(8)]
    assert [folds[i] for i in trie.fold[:8]] == folds
    np.testing.assert_array_equal(trie.fold[8:], np.arange(8, 11))


def test_words_wider_than_a_byte_and_a_character_set_of_thousands():
    """Labels of two bytes, and characters beyond the basic plane."""
    charset = Charset("".join(map(chr, range(0x4E00, 0x4E00 + 700))) + "\U0001f600ab")
    words = ["\u4e00\u50bb\U0001f600", "\u4e00\u50bb", "\u50bb" * 17, "b\u4e00a", "ab"]
    lexicon = Lexicon.of(words, charset, 20)
    assert set(spelt(lexicon, charset, 0).values()) == set(words)


def test_a_word_in_another_case_than_the_charsets_is_read_as_it_is_spelt():
    lexicon = Lexicon.of(["Cab"], Charset("abc"), 5)
    assert spelt(lexicon, Charset("abc"), 0) == {"cab": "Cab"}
    with pytest.raises(UserError, match="word 1: 'Cab' has 'C' outside the charset"):
        Lexicon.of(["Cab"], Charset("abc"), 5, ignore_case=False)


def test_words_that_cannot_be_written_are_left_out_and_told():
    told = []
    words = ["ab", "a\u00e9b", "", "abcab", "b", "\ud800", "q"]
    lexicon = Lexicon.of(words, CHARSET, 4, tell=told.append)
    assert spelt(lexicon, CHARSET, 0) == {"ab": "ab", "b": "b"}
    assert told == [
        "the lexicon: 5 of 7 words cannot be written and are left out: word 2: 'a\u00e9b' has '\u00e9' outside the "
        "charset; word 3: '' is empty; word 4: 'abcab' is longer than 4 characters; ..."
    ]
    with pytest.warns(UserWarning, match="left out"):
        Lexicon.of(words, CHARSET, 4)
    Lexicon.of(["a"], CHARSET, 4, tell=told.append)
    assert len(told) == 1


def test_lexicons_from_files(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffab\r\n\r\n  Ba \r\nc a\r\n".encode())
    lexicon = Lexicon.read(path, CHARSET, 5)
    assert spelt(lexicon, CHARSET, 0) == {"ab": "ab", "ba": "Ba", "c a": "c a"}
    assert lexicon.root_of("anything.png") == 0
    path = tmp_path / "lists.jsonl"
    path.write_text('{"file": "1.png", "words": ["a", "B"]}\n\n{"words": ["ca"], "file": "x/2.png", "by": "me"}\n')
    lexicon = Lexicon.read(path, CHARSET, 5)
    assert spelt(lexicon, CHARSET, lexicon.root_of("1.png")) == {"a": "a", "b": "B"}
    assert spelt(lexicon, CHARSET, lexicon.root_of("x/2.png")) == {"ca": "ca"}
    with pytest.raises(UserError, match=re.escape(f"{path} has no words for 2.png; its files are named like 1.png")):
        lexicon.root_of("2.png")
    with pytest.raises(ValueError, match="no word ends at node 0"):
        lexicon.word(0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.csv", b"a", "a lexicon must be .txt"),
        ("words.txt", b"", "words.txt has no words"),
        ("words.txt", b"\n \n", "words.txt has no words"),
        ("words.txt", b"a\n\xff", "must be UTF-8, but byte 2 is not"),
        ("words.txt", b"\nq\nabcabc\n", "none of the words can be written; the first, words.txt:2: 'q' has 'q'"),
        ("lists.jsonl", b"", "lists.jsonl has no words"),
        ("lists.jsonl", b"\n{", "lists.jsonl:2 is not JSON"),
        ("lists.jsonl", b"[" * 100_000, "lists.jsonl:1 is not JSON"),
        ("lists.jsonl", b'["a"]', "lists.jsonl:1: expected"),
        ("lists.jsonl", b'{"file": "1.png", "words": "a"}', "lists.jsonl:1: expected"),
        ("lists.jsonl", b'{"file": "1.png", "words": ["a", 1]}', "lists.jsonl:1: expected"),
        ("lists.jsonl", b'{"file": "1.png", "words": []}', "lists.jsonl:1: no words for 1.png"),
        (
            "lists.jsonl",
            b'{"file": "1.png", "words": ["a"]}\n{"file": "1.png", "words": ["a"]}',
            "lists.jsonl:2: 1.png already has a list, at lists.jsonl:1",
        ),
        (
            "lists.jsonl",
            b'{"file": "1.png", "words": ["a"]}\n{"file": "2.png", "words": ["a-b-c-", "?"]}',
            "words for 2.png can be written; the first, lists.jsonl:2: 'a-b-c-' is longer than 5 characters",
        ),
    ],
)
def test_files_that_are_no_lexicon_are_refused(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Lexicon.read(name, CHARSET, 5)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_words(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the lexicon .*missing\.txt: No such file"):
        Lexicon.read(tmp_path / "missing.txt", CHARSET, 5)
    with pytest.raises(UserError, match="the lexicon has no words"):
        Lexicon.of([], CHARSET, 5)
    with pytest.raises(UserError, match=r"the lexicon has no words for 1\.png"):
        Lexicon.of({"0.png": ["a"], "1.png": []}, CHARSET, 5)
    with pytest.raises(TypeError, match="put a single one into a list"):
        Lexicon.of("word", CHARSET, 5)
    with pytest.raises(TypeError, match="put a single one into a list"):
        Lexicon.of({"0.png": "a"}, CHARSET, 5)


def test_words_left_out_of_several_lists_are_told_once():
    told = []
    lists = {"1.png": ["a", "q"], "2.png": ["q", "b", "?"]}
    Lexicon.of(lists, CHARSET, 4, tell=told.append)
    assert told == [
        "the lexicon: 3 of 5 words cannot be written and are left out: word 2 for 1.png: 'q' has 'q' outside the "
        "charset; word 3 for 2.png: '?' has '?' outside the charset"
    ]


def test_places_of_words_that_are_left_out_of_lists_are_told(tmp_path):
    path, told = tmp_path / "lists.jsonl", []
    lines = [{"file": f"{i}.png", "words": ["a", "b", "q" if i == 2 else "c"]} for i in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Lexicon.read(path, CHARSET, 5, tell=told.append)
    assert told == [
        f"{path}: 1 of 12 words cannot be written and are left out: {path}:3: 'q' has 'q' outside the charset"
    ]


def test_words_in_another_unicode_form_are_the_same_words(tmp_path):
    told, words = [], ["Café", "Phở", "plain"]
    charset = Charset("".join(sorted(set("".join(words)))))
    apart = [unicodedata.normalize("NFD", word) for word in words]
    lexicon = Lexicon.of(apart, charset, 9, ignore_case=False, tell=told.append)
    assert spelt(lexicon, charset, 0) == {word: word for word in words}
    assert told == ["the lexicon: 2 words in decomposed Unicode form (NFD) are taken as composed ones (NFC)"]
    (tmp_path / "words.txt").write_text("\n".join([*apart, *words]), encoding="utf-8")
    lexicon = Lexicon.read(tmp_path / "words.txt", charset, 9, ignore_case=False, tell=told.append)
    assert list(lexicon.words) == words


def test_words_are_written_in_parts_where_the_charset_has_parts():
    charset = Charset("Cafe\u0301")
    lexicon = Lexicon.of(["Café", "fa"], charset, 5, ignore_case=False)
    assert spelt(lexicon, charset, 0) == {"Cafe\u0301": "Café", "fa": "fa"}
    with pytest.raises(UserError, match="is longer than 4 characters"):
        Lexicon.of(["Café"], charset, 4)
