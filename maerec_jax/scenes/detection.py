"""How a detector is loaded: ``load_detector()``."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from data_pipelines.errors import UserError
from maerec_jax.scenes.regions import DetectionConfig, Detector
from maerec_jax.weights.shipped_files import ENDING

_INSTALL = "pip install -e '.[detect]' in the project's folder"


def load_detector(path: str = "", config: DetectionConfig | None = None) -> Detector:
    """Load a detector. Nothing is ever downloaded.

    Args:
      path: an ONNX file, or the ``.safetensors`` file of a DBNet++, instead of that of ``config``; by default the
        PP-OCR detector in the wheel of rapidocr.
      config: how words are found.

    Raises:
      UserError: where a package of the extra ``detect`` is missing, or the file is no such detector.
    """
    config = config or DetectionConfig()
    path = path or config.detector
    if path.endswith((".pth", ".pt")):
        raise UserError(f"{path}: convert it first: maerec import {path} {Path(path).with_suffix(ENDING)}")
    if path.endswith(ENDING):
        return _published(path, config)
    if not path and config.method == "dbnetpp":
        raise UserError("--detection.method dbnetpp: name the file of the network in --detection.detector")
    path = path or str(_packaged_detector())
    _check_installed("onnxruntime", "pyclipper")
    from maerec_jax.scenes.db_detector import DBDetector
    from maerec_jax.scenes.dbnetpp_detector import DBNetPPDetector
    from maerec_jax.scenes.dbnetpp_networks import FileNetwork
    from maerec_jax.scenes.onnx_network import OnnxNetwork

    network = OnnxNetwork(path)
    if (network.method if config.method == "auto" else config.method) == "dbnetpp":
        return DBNetPPDetector(FileNetwork(network, config), config)
    return DBDetector(network, config)


def _published(path: str, config: DetectionConfig) -> Detector:
    """The DBNet++ in a file, run by JAX."""
    given = [name for name in ("mean", "std", "channels") if getattr(config, name) is not None]
    if config.method == "db" or given:
        flags = ", ".join(f"--detection.{name}" for name in given or ("method",))
        raise UserError(f"{path}: is a DBNet++, which has its own way: leave out {flags}")
    _check_installed("pyclipper")
    from maerec_jax.scenes.dbnetpp_detector import DBNetPPDetector
    from maerec_jax.scenes.dbnetpp_networks import JaxNetwork
    from maerec_jax.weights.detector_files import load_detector_params

    return DBNetPPDetector(JaxNetwork(load_detector_params(Path(path)), config), config)


def _check_installed(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"finding words needs {package}: {_INSTALL}")


def _packaged_detector() -> Path:
    """The detector in the wheel of rapidocr.

    Only the file is taken. rapidocr itself logs, would download a file that is missing, and sorts boxes but not their
    confidences (3.10); ``DBDetector`` finds the same words with it.
    """
    try:
        files = metadata.files("rapidocr") or []
    except metadata.PackageNotFoundError:
        files = []
    # A wheel has one: PP-OCRv6_det_small.onnx, ch_PP-OCRv4_det_infer.onnx before 3.9. What rapidocr downloads later
    # is not among the files of the wheel.
    for file in files:
        if file.match("rapidocr/models/*_det_*.onnx") and (path := Path(str(file.locate()))).is_file():
            return path
    raise UserError(f"finding words needs rapidocr: {_INSTALL}, or name an ONNX file in --detection.detector")
