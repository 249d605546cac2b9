"""How a detector is loaded: ``load_detector()``."""

from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from data_pipelines.errors import UserError
from maerec_jax.scenes.regions import DetectionConfig, Detector

_INSTALL = "pip install -e '.[detect]' in the project's folder"


def load_detector(path: str = "", config: DetectionConfig | None = None) -> Detector:
    """Load a detector. Nothing is ever downloaded.

    Args:
      path: an ONNX file, instead of that of ``config``; by default the PP-OCR detector in the wheel of rapidocr.
      config: how words are found.

    Raises:
      UserError: where a package of the extra ``detect`` is missing, or the file is no such detector.
    """
    config = config or DetectionConfig()
    path = path or config.detector or str(_packaged_detector())
    for package in ("onnxruntime", "pyclipper"):
        if find_spec(package) is None:
            raise UserError(f"finding words needs {package}: {_INSTALL}")
    from maerec_jax.scenes.db_detector import DBDetector

    return DBDetector(path, replace(config, detector=path))


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
