"""The logged rates: images a second, utilisation of the devices, waiting."""

import jax
import pytest

from maerec_jax.config import MeshConfig
from maerec_jax.costs import utilisation
from maerec_jax.costs.chips import CHIPS
from maerec_jax.costs.utilisation import Rates, measured_peak, peak, published_peak
from maerec_jax.distributed.sharding import make_mesh
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.vit import ViTConfig

MODEL = MAEConfig(encoder=ViTConfig.tiny(position_table="grid"), decoder_dim=32, decoder_depth=1, decoder_heads=2)
SIZE = (32, 128)


class Clock:
    """Seconds as a test sets them."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_rates_of_known_steps(clock):
    work = MODEL.work(SIZE).model
    rates = Rates(16, MODEL.work, peak=1e12, clock=clock)
    for begin in (0.0, 1.0, 4.0, 5.0, 8.0):  # steps of 1, 3, 1 and 3 seconds
        clock.now = begin
        rates.count(0.25, SIZE)
    clock.now = 10.0
    found = rates.read()
    rate = {"images_per_second": 8.0, "mfu": 8 * work / 1e12, "data_wait": 0.125}
    assert found == pytest.approx({**rate, "step_deviation": 0.5})
    # A device that does just that, and nothing else, is used in full.
    rates = Rates(16, MODEL.work, peak=16 * work, clock=clock)
    rates.count(0.0, SIZE)
    clock.now = 11.0
    assert rates.read()["mfu"] == pytest.approx(1.0)
    # One that does more has another peak than was measured.
    rates = Rates(16, MODEL.work, peak=8 * work, clock=clock)
    rates.count(0.0, SIZE)
    clock.now = 12.0
    assert rates.read() == {"images_per_second": 16.0, "data_wait": 0.0}


def test_each_step_counts_with_its_own_image_size(clock):
    sizes = [(32, 128), (16, 256), (32, 64), (32, 64)]
    work = [MODEL.work(size).model for size in sizes]
    assert len(set(work[1:])) == 2
    rates = Rates(4, MODEL.work, peak=1e12, clock=clock)
    for begin, size in enumerate(sizes):
        clock.now = begin / 2
        rates.count(0.0, size)
    clock.now = 2.0
    assert rates.read()["mfu"] == pytest.approx(4 * sum(work) / 2.0 / 1e12)


def test_rates_begin_anew_when_read_or_restarted(clock):
    rates = Rates(4, MODEL.work, peak=1e12, clock=clock)
    assert rates.read() == {}  # no step yet
    rates.count(0.5, SIZE)
    assert rates.read() == {}  # no time has passed
    clock.now = 1.0
    first = rates.read()
    assert first["images_per_second"] == 4.0
    clock.now = 2.0
    assert rates.read() == {}
    rates.count(9.0, SIZE)
    rates.restart()
    rates.count(0.5, SIZE)
    clock.now = 3.0
    assert rates.read() == first


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("TPU v4", 275e12, 275e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
        ("TPU v6 lite", 918e12, 918e12),
        ("TPU7x", 2307e12 / 2, 2307e12 / 2),  # two devices a chip
        ("NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA H100 NVL", 835.5e12, 417.5e12),
        ("NVIDIA H200", 989.4e12, 494.7e12),
        ("NVIDIA GH200 480GB", 989.4e12, 494.7e12),
        ("NVIDIA A100-SXM4-40GB", 312e12, 156e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 156e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 156e12),
        ("NVIDIA L4", 121e12, 60.5e12),
        ("NVIDIA L40S", 362e12, 183e12),
        ("NVIDIA B200", 2250e12, 1125e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA L40", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
        ("cpu", None, None),
    ],
)
def test_published_peaks(kind, bfloat16, float32):
    assert published_peak(kind, "bfloat16") == bfloat16
    assert published_peak(kind, "float32") == float32


def test_every_chip_has_a_device_kind():
    assert set(utilisation._TPUS.values()) == CHIPS.keys()


def test_an_unknown_device_is_measured(monkeypatch):
    measured = []

    def fake(device, dtype):
        measured.append((device, dtype))
        return 7.0

    monkeypatch.setattr(utilisation, "measured_peak", fake)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert peak(mesh, "float32") == 7.0
    assert measured == [(jax.devices()[0], "float32")]


def test_cpu_devices_of_a_process_are_one_processor(monkeypatch):
    class Device:
        platform, device_kind = "cpu", "cpu"

        def __init__(self, process_index):
            self.process_index = process_index

    class Mesh:
        import numpy as np

        devices = np.array([Device(0), Device(0), Device(1), Device(1)])
        local_devices = tuple(devices[:2])
        size = 4

    monkeypatch.setattr(utilisation, "measured_peak", lambda device, dtype: 7.0)
    assert peak(Mesh, "float32") == 14.0
    for device in Mesh.devices:
        device.platform, device.device_kind = "gpu", "NVIDIA L4"
    assert peak(Mesh, "bfloat16") == 4 * 121e12
    for device in Mesh.devices:
        device.device_kind = "some other"
    assert peak(Mesh, "bfloat16") == 28.0


def test_a_measured_peak_is_a_rate():
    # Of a machine that exists: more than a microcontroller, less than any.
    assert 1e8 < measured_peak(jax.devices()[0], "float32") < 1e18
