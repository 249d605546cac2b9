"""Files of torch.save are read without PyTorch, number for number, and nothing that is in them is run."""

import argparse
import collections
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from data_pipelines.errors import UserError
from maerec_jax.interop.foreign_files import open_weights
from maerec_jax.interop.torch_files import TorchFile, UnreadableError
from tests.interop.pth_files import Raw, called, named, operations, save_pth, tensor

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)


def read(path, **options):
    with open_weights(path, **options) as weights:
        return weights.read()


@pytest.mark.parametrize("archive", [True, False])
def test_what_pytorch_saves(tmp_path, archive):
    """Both formats; views, shared and transposed tensors, every dtype of weights."""
    base = torch.arange(60.0).reshape(5, 12)
    saved = collections.OrderedDict(
        whole=base, view=base[1:4, ::2], transposed=base.t(), parameter=torch.nn.Parameter(base.clone()),
        half=torch.ones(3).half(), brain=torch.tensor([1.5, 2.0]).bfloat16(), double=torch.rand(3).double(),
        integer=torch.tensor(3), flags=torch.tensor([True, False]), empty=torch.zeros(0, 3),
    )  # fmt: skip
    beside = {"args": argparse.Namespace(lr=1.0), "numbers": np.arange(3), "epoch": np.float64(3), "scaler": {"s": 1.0}}
    optimizer = torch.optim.AdamW([saved["parameter"]])
    saved["parameter"].grad = torch.ones(5, 12)
    optimizer.step()
    everything = {"model": saved, "optimizer": optimizer.state_dict(), **beside}
    torch.save(everything, tmp_path / "file.pth", _use_new_zipfile_serialization=archive)
    with (tmp_path / "file.pth").open("rb") as stream:
        file = TorchFile(stream)
        assert file.unknown == []
        assert file.content["model"].keys() == saved.keys()
        for name, value in saved.items():
            found = file.read(file.content["model"][name])
            assert found.dtype.name == str(value.dtype).removeprefix("torch.")
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found.astype(np.float64), value.detach().double().numpy(), name)
        moments = file.content["optimizer"]["state"][0]["exp_avg"]
        np.testing.assert_array_equal(file.read(moments), optimizer.state_dict()["state"][0]["exp_avg"])
    with open_weights(tmp_path / "file.pth") as weights:
        assert weights.others == ("optimizer", *beside)


def test_pytorch_reads_what_these_tests_write(tmp_path):
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"a": NUMBERS, "b": NUMBERS.T, "c": np.int64(3)[None]}})
    found = torch.load(path, weights_only=True)["state_dict"]
    np.testing.assert_array_equal(found["b"], NUMBERS.T)
    assert found["c"].tolist() == [3]


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"a": NUMBERS, "b": NUMBERS.T}, "meta": {"epoch": 3}})
    found = read(path)
    np.testing.assert_array_equal(found["a"], NUMBERS)
    np.testing.assert_array_equal(found["b"], NUMBERS.T)


# Objects that mmengine saves, bound methods among them: what it has to look up for these is not looked up here.
HISTORY = called(
    named("mmengine.logging.history_buffer", "HistoryBuffer"),
    called(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), (0,), "b"),
    called(named("__builtin__", "getattr"), named("mmengine.logging.history_buffer", "HistoryBuffer"), "mean"),
)


def test_what_mmengine_saves(tmp_path):
    content = {
        "meta": {"epoch": 3, "cfg": "model = dict()"},
        "state_dict": {f"module.{name}": NUMBERS for name in "ab"},
        "message_hub": {"loss": HISTORY, "args": Raw(HISTORY + operations({"a": 1}) + pickle.BUILD)},
    }
    with open_weights(save_pth(tmp_path / "file.pth", content)) as weights:
        assert weights.shapes == {"a": (3, 4), "b": (3, 4)}
        assert weights.others == ("meta", "message_hub")
        assert any("'module.'" in note for note in weights.notes)


# Each makes a folder of the name that is put in when it is loaded by pickle: by a function that it calls, by a class
# that it makes an object of, by an instance's state, by evaluated code, and by all operations that look names up.
MAKE = "__import__('os').mkdir({!r})"


def _getattr(of, name):
    return called(named("builtins", "getattr"), of, name)


HOSTILE = {
    "reduce": lambda place: called(named("os", "mkdir"), place),
    "eval": lambda place: called(named("builtins", "eval"), MAKE.format(place)),
    "exec": lambda place: called(named("__builtin__", "exec"), MAKE.format(place)),
    "getattr": lambda place: called(_getattr(called(named("importlib", "import_module"), "os"), "mkdir"), place),
    "harmless names": lambda place: called(_getattr(named("numpy.lib._utils_impl", "os"), "mkdir"), place),
    "new object": lambda place: Raw(
        named("functools", "partial") + operations((named("os", "mkdir"), place)) + pickle.NEWOBJ
        + operations(()) + pickle.REDUCE
    ),
    "stack": lambda place: Raw(
        operations("os") + operations("mkdir") + pickle.STACK_GLOBAL + operations((place,)) + pickle.REDUCE
    ),
    "instance": lambda place: Raw(pickle.MARK + operations(place) + pickle.INST + b"os\nmkdir\n"),
    "object": lambda place: Raw(pickle.MARK + named("os", "mkdir") + operations(place) + pickle.OBJ),
    "map": lambda place: called(
        named("builtins", "list"), called(named("builtins", "map"), named("os", "mkdir"), [place])
    ),
    "state": lambda place: Raw(
        called(named("types", "SimpleNamespace")) + operations({"x": called(named("os", "mkdir"), place)})
        + pickle.BUILD
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_nothing_in_a_file_is_run(how, tmp_path):
    live, place = tmp_path / "live", tmp_path / "ran"
    pickle.loads(pickle.PROTO + b"\x02" + HOSTILE[how](str(live)) + pickle.STOP)
    assert live.is_dir()  # so it would do something
    path = save_pth(tmp_path / "file.pth", {"meta": HOSTILE[how](str(place)), "state_dict": {"a": NUMBERS}})
    if how != "harmless names":  # of these only stand-ins come
        with pytest.raises(UserError, match=r"file.pth: .*(os|eval|exec|map|import_module).*nothing was run"):
            read(path)
    np.testing.assert_array_equal(read(path, ignore_code=True)["a"], NUMBERS)
    assert not place.exists()


@pytest.mark.parametrize(
    "attack",
    [
        Raw(named("collections", "OrderedDict") + operations((None, {"items": 1})) + pickle.BUILD),
        Raw(named("torch._utils", "_rebuild_tensor_v2") + operations({"_make": 1}) + pickle.BUILD),
        Raw(named("torch", "FloatStorage") + operations({"dtype": "O"}) + pickle.BUILD),
        Raw(pickle.EXT1 + b"\x01"),
        Raw(b"\xff"),
        Raw(pickle.BINGET + b"\x07"),
    ],
)  # fmt: skip
def test_operations_that_no_weights_need(attack, tmp_path):
    path = save_pth(tmp_path / "file.pth", {"meta": attack, "state_dict": {"a": NUMBERS}})
    with pytest.raises(UserError, match=r"file.pth: is it truncated, damaged or in another format"):
        read(path, ignore_code=True)
    np.testing.assert_array_equal(read(save_pth(path, {"state_dict": {"a": NUMBERS}}))["a"], NUMBERS)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3, 5), (5, 1), 0),
        ((3, 4), (4, 1), 1),
        ((2, 2), (40, 1), 0),
        ((40,), (0,), 0),
    ],
)
def test_tensors_stay_in_their_storage(shape, strides, offset, tmp_path):
    storages = {}
    outside = tensor(NUMBERS, storages, shape, strides, offset)
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"good": NUMBERS, "a": outside}})
    with pytest.raises(UserError, match=r"file.pth: a cannot be read: .* does not lie in its 12 numbers"):
        read(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((3, 4), (4, -1), 3), ((3, 4), (4, 1), -1), ((3, 4), (1,), 0), ("3", (1,), 0), (3, (1,), 0), ((None,), (1,), 0)],
)
def test_what_is_no_tensor(shape, strides, offset, tmp_path):
    malformed = tensor(NUMBERS, {}, shape, strides, offset)
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"good": NUMBERS, "a": malformed}})
    with pytest.raises(UserError, match=r"file.pth: no tensors: a$"):
        read(path)


def test_states_of_tensors_do_not_change(tmp_path):
    storages = {}
    changed = Raw(tensor(NUMBERS, storages, (3, 4), (4, 1)) + operations({"shape": (999,)}) + pickle.BUILD)
    with pytest.raises(UserError, match="it changes what tensors are made of"):
        read(save_pth(tmp_path / "file.pth", {"state_dict": {"good": NUMBERS, "a": changed}}))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_cut_archives(share, tmp_path):
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"a": np.zeros(5000, np.float32)}})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"file.pth: .*truncated"):
        read(path)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_cut_streams(share, tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"a": torch.zeros(500), "b": torch.zeros(500)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"file.pth: .*truncated"):
        read(path)


def test_damaged_numbers_name_their_tensor(tmp_path):
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"first": NUMBERS, "second": NUMBERS + 100}})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<f", 105), struct.pack("<f", 106)))
    with pytest.raises(UserError, match=r"file.pth: second cannot be read: damaged"):
        read(path)


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order(order, tmp_path):
    path = tmp_path / "file.pth"
    storages = {}
    data = pickle.PROTO + b"\x02" + operations({"a": NUMBERS}, storages) + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", order)
        archive.writestr("x/data/0", NUMBERS.astype("<f4" if order == "little" else ">f4").tobytes())
    np.testing.assert_array_equal(read(path)["a"], NUMBERS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (3, "holds int"),
        ([NUMBERS], "holds list"),
        ({"epoch": 3, "names": ["a"]}, "holds no tensors by name, only epoch, names"),
        (
            called(named("torch.nn.modules.linear", "Linear")),
            "holds an object of class Linear.*save the model's state_dict",
        ),
    ],
)
def test_files_without_tensors_by_name(content, told, tmp_path):
    path = save_pth(tmp_path / "file.pth", content)
    with pytest.raises(UserError, match=f"file.pth {told}"):
        read(path)


@pytest.mark.parametrize("name", ["pos_embed", "decoder.classifier.weight"])
def test_tensors_larger_than_their_file(name, tmp_path):
    """They are refused before anything is made of their shape."""
    state = {name: Raw(b""), "patch_embed.proj.weight": NUMBERS}
    storages = {}
    state[name] = Raw(tensor(NUMBERS, storages, (1, 10**9, 384), (0, 0, 0)))
    path = save_pth(tmp_path / "file.pth", {"state_dict": state}, storages)
    with pytest.raises(UserError, match=rf"{name} \(1, 1000000000, 384\) is larger than the file"):
        read(path)


def test_entries(tmp_path):
    path = save_pth(tmp_path / "file.pth", {"state_dict": {"a": NUMBERS}, "ema_state_dict": {"a": NUMBERS + 1}})
    np.testing.assert_array_equal(read(path)["a"], NUMBERS)
    np.testing.assert_array_equal(read(path, entry="ema_state_dict")["a"], NUMBERS + 1)
    with pytest.raises(UserError, match=r"--entry ema is not a state dict; the entries are state_dict, ema_state_dict"):
        read(path, entry="ema")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x02K\x03.", b"PK\x03\x04"])
def test_other_files(data, tmp_path):
    (tmp_path / "file.pth").write_bytes(data)
    with pytest.raises(UserError, match=r"file\.pth: "):
        read(tmp_path / "file.pth")
    with (tmp_path / "file.pth").open("rb") as stream, pytest.raises(UnreadableError):
        TorchFile(stream)
    with pytest.raises(UserError, match=r"no such file: .*other\.pth"):
        read(tmp_path / "other.pth")
