"""The baselines of the reference outputs in PyTorch: tiny configs, with the reference's weights."""

import zlib
from types import SimpleNamespace

import numpy as np
import torch

from maerec_jax.interop.pytorch_baselines import KINDS
from tests.conftest import FIXTURES

CHARACTERS = "012abcdAB!# "
# In the order R, G, B; for the reference's BGR these are the other way round.
IMAGENET = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)}
HALF = {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3}
SAR = {"pixel_mean": (127.0,) * 3, "pixel_std": (127.0,) * 3}


def decoder(dim):
    return SimpleNamespace(dim=dim, layers=2, heads=4, inner_dim=40, dropout=0.1, max_length=8)


CONFIGS = {
    "nrtr": {
        "channels": (4, 6, 8, 12, 16, 20), "blocks": (1, 1, 2, 1), "encoder_layers": 2, "encoder_heads": 4,
        "encoder_inner_dim": 40, "decoder": decoder(20), "mask": "flattened", "image_size": (32, 64), **IMAGENET,
    },
    "satrn": {
        "channels": (12, 24), "encoder_layers": 2, "encoder_heads": 4, "encoder_inner_dim": 36, "decoder": decoder(24),
        "image_size": (16, 40), **IMAGENET,
    },
    "sar": {
        "channels": (4, 6, 8, 8, 12, 16), "blocks": (1, 1, 2, 1), "encoder_dim": 20, "decoder_dim": 20,
        "attention_dim": 14, "max_length": 8, "cell_state": "hidden", "image_size": (24, 48), **SAR,
    },
    "aster": {
        "stem": 6, "widths": (6, 8, 10, 12, 16), "blocks": (2, 1, 1, 1, 1), "encoder_dim": 8, "attention_dim": 20,
        "decoder_dim": 24, "max_length": 8, "image_size": (40, 120), "rectified_size": (32, 100),
        "localisation_size": (32, 64), **HALF,
    },
    "abinet": {
        "stem": 4, "widths": (1, 2, 4, 8, 16), "blocks": (2, 1, 1, 1, 1), "dim": 16, "heads": 4, "inner_dim": 28,
        "encoder_layers": 2, "key_channels": 6, "max_length": 8, "language": SimpleNamespace(layers=2, iterations=3),
        "end_only": False, "image_size": (32, 64), **IMAGENET,
    },
}  # fmt: skip


def config_of(kind, color="bgr", **changes):
    """The config of a baseline in the reference outputs."""
    common = {"kind": kind, "charset": SimpleNamespace(characters=CHARACTERS), "dropout": 0.1, "color": color}
    return SimpleNamespace(**(common | CONFIGS[kind] | changes))


def outputs_of(kind):
    """The reference's arrays."""
    with np.load(FIXTURES / "baselines" / f"{kind}_tiny.npz") as npz:
        return dict(npz)


def state_of(model, arrays):
    """The reference's state dict for a model.

    Tables of which the reference has fewer rows, or none as they can be computed, are the model's own.
    """
    state = {name.removeprefix("sd/"): torch.tensor(value) for name, value in arrays.items() if name.startswith("sd/")}
    for name, own in model.state_dict().items():
        if name not in state:
            assert name in arrays["formula_keys"]
            state[name] = own if "table" in name or "coordinate" in name else formula_weight(name, own.shape)
        elif state[name].shape != own.shape:
            rows = tuple(map(slice, state[name].shape))
            torch.testing.assert_close(own[rows], state[name], rtol=0, atol=1e-6)
            state[name] = own
    return state


def formula_weight(name, shape):
    """A weight that the reference outputs do not store (their README)."""
    draws = np.random.Generator(np.random.PCG64(zlib.crc32(f"tiny/{name}".encode()))).standard_normal(tuple(shape))
    deviation = 0.05 if "stn_fc2" in name else 512**-0.5 if "stn_fc1" in name else (9 * shape[1]) ** -0.5
    return torch.from_numpy((deviation * draws).astype(np.float32))


def model_of(kind, arrays=None, **changes):
    """The model, in eval mode."""
    model = KINDS[kind](config_of(kind, **changes))
    model.load_state_dict(state_of(model, outputs_of(kind) if arrays is None else arrays), strict=True)
    return model.eval()


def images_of(arrays):
    """uint8 RGB (B, H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(arrays["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)[..., ::-1]))
