"""Files as ``torch.save`` writes them, without PyTorch: pickles put together operation by operation."""

import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
_FLAG = {True: pickle.NEWTRUE, False: pickle.NEWFALSE, None: pickle.NONE}


class Raw(bytes):
    """Operations that leave one object on the stack."""


def named(module, name):
    """The operation that looks a name up."""
    return Raw(pickle.GLOBAL + f"{module}\n{name}\n".encode())


def called(function, *arguments):
    """The operations that call what is on the stack."""
    return Raw(function + operations(arguments) + pickle.REDUCE)


def operations(value, storages=None):
    """The operations that make a value; arrays go to ``storages`` and become tensors."""
    make = lambda part: operations(part, storages)  # noqa: E731
    if isinstance(value, Raw):
        return value
    if value is None or isinstance(value, bool):
        return _FLAG[value]
    if isinstance(value, int):
        return pickle.BININT + struct.pack("<i", value)
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(map(make, value)) + pickle.TUPLE
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(make, value)) + pickle.APPENDS
    if isinstance(value, Mapping):
        items = b"".join(make(k) + make(v) for k, v in value.items())
        start = called(named("collections", "OrderedDict")) if storages is not None else pickle.EMPTY_DICT
        return start + pickle.MARK + items + pickle.SETITEMS
    assert isinstance(value, np.ndarray), value
    strides = tuple(step // value.itemsize for step in value.strides)
    return tensor(value, storages, value.shape, strides)


def tensor(array, storages, shape, strides, offset=0):
    """The operations that make a tensor of the numbers of an array."""
    key = str(len(storages))
    storages[key] = array.tobytes("A")
    kind = named("torch", _STORAGES[array.dtype.name])
    reference = operations(("storage", kind, key, "cpu", array.size)) + pickle.BINPERSID
    hooks = called(named("collections", "OrderedDict"))
    arguments = (Raw(reference), offset, shape, strides, False, hooks)
    return called(named("torch._utils", "_rebuild_tensor_v2"), *arguments)


def save_pth(path, content, storages=None):
    """Write an archive of a content: mappings, lists, tuples, plain values, arrays, and ``Raw`` operations.

    ``storages`` are those that such operations refer to, if any.
    """
    storages = {} if storages is None else storages
    data = pickle.PROTO + b"\x02" + operations(content, storages) + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", data)
        archive.writestr(f"{path.stem}/byteorder", "little")
        for key, numbers in storages.items():
            archive.writestr(f"{path.stem}/data/{key}", numbers)
        archive.writestr(f"{path.stem}/version", "3\n")
    return path
