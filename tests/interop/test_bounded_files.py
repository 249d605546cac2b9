"""Files of torch.save that declare more than they hold take neither memory nor time. All of these are harmless."""

import pickle
import struct
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_pipelines.errors import UserError
from maerec_jax.interop import inert_pickles, torch_files
from maerec_jax.interop.foreign_files import open_weights
from tests.interop.pth_files import Raw, called, named, operations, save_pth, tensor

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)
STATE = {"state_dict": {"a": NUMBERS}}
FEW = 2_000_000  # bytes


def read(path):
    with open_weights(path, ignore_code=True) as weights:
        return weights.read()


def refused(path, told):
    """Whether a file is refused in a line that says so, and without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=rf"{path.name}: .*{told}") as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < FEW
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("operation", [pickle.BINBYTES8, pickle.BYTEARRAY8, pickle.BINUNICODE8, pickle.FRAME])
@pytest.mark.parametrize("archive", [True, False])
def test_lengths_of_what_is_not_there(operation, archive, tmp_path):
    declared = operation + struct.pack("<Q", 50 * FEW) + b"only this"
    if archive:
        save_pth(tmp_path / "file.pth", {"meta": Raw(declared), **STATE})
    else:
        (tmp_path / "file.pth").write_bytes(pickle.PROTO + b"\x02" + declared)
    refused(tmp_path / "file.pth", "is it truncated, damaged or in another format")


def test_places_in_the_memo_are_no_reason_for_a_long_list(tmp_path):
    placed = Raw(operations("noted") + pickle.LONG_BINPUT + struct.pack("<I", FEW))
    path = save_pth(tmp_path / "file.pth", {"meta": placed, **STATE})
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read(path)["a"], NUMBERS)
        assert tracemalloc.get_traced_memory()[1] < FEW
    finally:
        tracemalloc.stop()


NESTED = (((1, 2), 3), 4)
FROZEN = Raw(pickle.MARK + operations(1) + pickle.FROZENSET)


@pytest.mark.parametrize(
    "keyed",
    [
        {NESTED: 1},
        Raw(pickle.EMPTY_DICT + operations(NESTED) + operations(1) + pickle.SETITEM),
        Raw(pickle.MARK + operations(NESTED) + operations(1) + pickle.DICT),
        Raw(pickle.EMPTY_SET + pickle.MARK + operations(NESTED) + pickle.ADDITEMS),
        Raw(pickle.MARK + operations(NESTED) + pickle.FROZENSET),
        Raw(pickle.MARK + FROZEN + pickle.FROZENSET),
        called(named("collections", "OrderedDict"), [(NESTED, 1)]),
        {tuple(range(101)): 1},
        {Raw(pickle.LONG1 + b"\x08" + struct.pack("<q", 2**56)): 1},
    ],
    ids=["items", "item", "dict", "set", "frozen", "frozen in frozen", "ordered", "long", "large"],
)  # fmt: skip
def test_keys_that_would_take_long_to_look_up(keyed, tmp_path):
    refused(save_pth(tmp_path / "file.pth", {"meta": keyed, **STATE}), "(keys that no file of weights needs|101 parts)")


def test_keys_that_files_have(tmp_path):
    storages = {}
    pairs = [["a", Raw(tensor(NUMBERS, storages, (3, 4), (4, 1)))]]
    ordered = called(named("collections", "OrderedDict"), pairs)  # as Python 2 saved it
    meta = {(1, "b"): 1, 3: 2, None: 4, 2.5: [NESTED]}
    path = save_pth(tmp_path / "file.pth", {"meta": meta, "state_dict": ordered}, storages)
    np.testing.assert_array_equal(read(path)["a"], NUMBERS)


def test_what_a_file_says_of_itself_is_a_text(tmp_path):
    with open_weights(save_pth(tmp_path / "file.pth", {"meta": {"maerec_jax": [NESTED]}, **STATE})) as weights:
        assert weights.about == ""


# A list of one pair a hundred times: copies of it take no time in the file.
REPEATED = Raw(
    pickle.EMPTY_LIST + pickle.MARK + operations(("a", 1)) + pickle.BINPUT + b"\x01" + 99 * (pickle.BINGET + b"\x01")
    + pickle.APPENDS + pickle.BINPUT + b"\x02"
)  # fmt: skip
AGAIN = Raw(pickle.BINGET + b"\x02")


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ([None] * 400, "more operations than a file of weights of its size needs"),
        ([Raw(named("torch", f"name{i}")) for i in range(30)], "more functions and classes"),
        (Raw(named("torch", "n" * 600)), "more functions and classes"),
        (called(named("torch", "name"), *range(101)), "101 parts"),
        ([REPEATED] + 3 * [called(named("collections", "OrderedDict"), AGAIN)], "more operations"),
    ],
)  # fmt: skip
def test_bounds(meta, told, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "_OPERATIONS", 300)
    monkeypatch.setattr(inert_pickles, "_MOST_NAMES", 20)
    refused(save_pth(tmp_path / "file.pth", {"meta": meta, **STATE}), told)


@pytest.mark.parametrize("archive", [True, False])
def test_bounds_have_room_for_what_is_saved(archive, tmp_path, monkeypatch):
    """As many tensors as a MAERec and its optimizer have take a quarter of the operations that there may be."""
    monkeypatch.setattr(torch_files, "_OPERATIONS", torch_files._OPERATIONS // 4)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(100)))
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    saved = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "file.pth", _use_new_zipfile_serialization=archive)
    assert len(read(tmp_path / "file.pth")) == 200


def test_tensors_that_are_said_to_be_larger_than_their_file(tmp_path):
    large, storages = SimpleNamespace(size=FEW, dtype=NUMBERS.dtype, tobytes=lambda _: b""), {}
    optimizer = Raw(tensor(large, storages, (1,), (1,)))
    path = save_pth(tmp_path / "file.pth", {"optimizer": optimizer, **STATE}, storages)
    refused(path, "its tensors should have 8,000,0.. bytes, and it has")


def test_tensors_that_share_all_their_numbers(tmp_path):
    storages = {}
    shared = tensor(np.zeros(2000, np.float32), storages, (2000,), (1,))
    state = {f"layer.{i}": Raw(shared) for i in range(8)}
    refused(save_pth(tmp_path / "file.pth", {"state_dict": state}, storages), "share their numbers more often")
    two = {name: state[name] for name in ("layer.0", "layer.1")}
    assert len(read(save_pth(tmp_path / "file.pth", {"state_dict": two}, storages))) == 2


def test_archives_that_inflate(tmp_path):
    path = save_pth(tmp_path / "plain.pth", {"state_dict": {"a": np.zeros(FEW, np.float32)}})
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "file.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    refused(tmp_path / "file.pth", "archive is compressed")


def test_archives_of_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "_DIRECTORY", 1000)
    path = save_pth(tmp_path / "file.pth", STATE, {str(i): b"" for i in range(100)})
    refused(path, "more members than a file of weights needs")
