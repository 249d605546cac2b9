"""A published DBNet++ from its file: every tensor is checked, and kept as it is."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.interop.foreign_files import WeightFile
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.model_of_shapes import given_beside
from maerec_jax.interop.state_dict_checks import compare
from maerec_jax.models.dbnetpp import DBNetPPConfig
from maerec_jax.models.names.table import COUNTS
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params, state_dict_shapes

_ONLY = "only dbnetpp_resnet50-oclip_fpnc can be imported"


@dataclass(frozen=True)
class ImportedDetector:
    """What a file of weights was made into."""

    tensors: dict[str, np.ndarray]
    """The state dict: float32, and int64 counters."""
    others: tuple[str, ...]
    """Entries of the file that were left where they are."""
    notes: list[str]
    """What was changed, dropped or assumed."""

    @property
    def parameters(self) -> int:
        """How many numbers are trained: running statistics and counters are not."""
        aside = (COUNTS, "running_mean", "running_var")
        return sum(value.size for name, value in self.tensors.items() if not name.endswith(aside))


def import_detector(weights: WeightFile, options: ImportOptions) -> ImportedDetector:
    """The detector in a file.

    Raises ``UserError`` for options that are for other models; ``ValueError`` where it is another detector, or tensors
    are missing, left over or of another shape: all of them are named.
    """
    if given := given_beside(options, {"entry", "ignore_code"}):
        raise UserError(f"{weights.path}: is a text detector, which has no such options: leave out {', '.join(given)}")
    _check_family(set(weights.shapes))
    detector = DBNetPPConfig()
    compare(weights.shapes, state_dict_shapes(detector))
    params = params_from_state_dict(weights.read(), detector)
    return ImportedDetector(state_dict_from_params(params, detector), weights.others, weights.notes)


def _check_family(names: Collection[str]) -> None:
    """Raise ``ValueError`` for another detector, whose tensors would all be listed as wrong."""
    if not any(name.startswith("det_head.binarize.") for name in names):
        raise ValueError(f"a text detector without differentiable binarisation: {_ONLY}")
    if not any(name.startswith("neck.asf_attn.") for name in names):
        raise ValueError(f"a DBNet without adaptive scale fusion, which is not DBNet++: {_ONLY}")
    if any(".conv2_offset." in name or ".conv2.conv_offset." in name for name in names):
        raise ValueError(f"a DBNet++ with deformable convolutions: {_ONLY}")
    if not any(name.startswith("backbone.stem.") for name in names):
        raise ValueError(f"a DBNet++ with another backbone than oCLIP's ResNet-50: {_ONLY}")
