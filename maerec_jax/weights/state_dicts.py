"""Between the reference's PyTorch state dicts and our parameter trees, by the name table of the model."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.errors import UserError
from maerec_jax.models.names.table import NameTable, Rule, Tensor


class Named(Protocol):
    """What has parameters and PyTorch's names for them: every ``ModelConfig``, and detectors."""

    @property
    def kind(self) -> Any:
        """The name of the kind of model."""

    def init(self, key: Any) -> Any:
        """Fresh parameters."""

    def names(self) -> NameTable | None:
        """Where the tensors of PyTorch's state dict lie; None for a model that PyTorch has not."""


def name_table(model: Named) -> NameTable:
    """The name table of a model. Raises ``UserError`` for one that has none."""
    table = model.names()
    if table is None:
        raise UserError(f"a model of the kind {model.kind} cannot be exported: it has no PyTorch names")
    return table


def _shapes(model: Named) -> dict[str, Any]:
    """The parameters of a model by their paths, as shapes."""
    return flatten_dict(jax.eval_shape(model.init, jax.random.key(0)), sep="/")


def _keys(paths: Iterable[str], table: NameTable) -> Iterator[tuple[str, str, Rule]]:
    """Each PyTorch key of our paths, with its path and rule; of several keys of one path the one that counts first."""
    rules = sorted(table.rules, key=lambda rule: rule.alias)
    for path in paths:
        for rule in rules:
            if match := re.fullmatch(re.escape(rule.path).replace(r"\\1", r"(\d+)"), path):
                key = rule.pattern
                for number in match.groups():
                    key = key.replace(r"(\d+)", number)
                yield key.replace(r"\.", "."), path, rule


def params_from_state_dict(state: Mapping[str, Tensor], model: Named) -> dict:
    """Turn a reference state dict (arrays by key) into a parameter tree.

    Of a tensor that the reference writes under two keys one is enough; where there are both, the one counts that counts
    there. Constants are left out.

    Raises ``ValueError`` naming the keys that have no place in the tree, are missing, or have another shape.
    """
    table, shapes, name = name_table(model), _shapes(model), type(model).__name__
    names = {key: (path, rule) for key, path, rule in _keys(shapes, table)}
    if left_over := state.keys() - names.keys() - table.constants.keys():
        raise ValueError(f"keys that {name} has no place for: {', '.join(sorted(left_over))}")
    flat: dict[str, Tensor] = {}
    wrong = []
    for key, (path, rule) in names.items():
        if key in state:
            try:
                tensor = np.asarray(rule.to_flax(np.asarray(state[key])), order="C")
            except ValueError as error:
                raise ValueError(f"{name} has no place for {key} of shape {np.shape(state[key])}") from error
            if tensor.shape != shapes[path].shape:
                wrong.append(f"{path} (its second copy)" if path in flat else path)
            flat.setdefault(path, tensor)
    wrong += shapes.keys() - flat.keys()
    if wrong:
        raise ValueError(f"{name} misses, or finds in another shape: {', '.join(sorted(wrong))}")
    return unflatten_dict(flat, sep="/")


def state_dict_from_params(params: Mapping, model: Named, aliases: bool = True) -> dict[str, Tensor]:
    """Turn a parameter tree, or a part of one, into a reference state dict, its constants included.

    ``aliases`` says whether tensors that the reference writes under two keys are written twice. Raises ``ValueError``
    naming the parameters that the table does not know.
    """
    table, flat = name_table(model), flatten_dict(params, sep="/")
    names = [found for found in _keys(flat, table) if aliases or not found[2].alias]
    if left_over := flat.keys() - {path for _, path, _ in names}:
        raise ValueError(f"parameters without a PyTorch name: {', '.join(sorted(left_over))}")
    state = {key: np.asarray(rule.to_torch(np.asarray(flat[path])), order="C") for key, path, rule in names}
    return state | table.constants


def state_dict_shapes(model: Named) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The keys of a model's reference state dict, its constants left out.

    Returns:
      For each key the path of our parameter, which the keys of one tensor share, and the shape there. Of several keys
      the one that counts comes first.
    """
    shapes = _shapes(model)
    return {
        key: (path, jax.eval_shape(rule.to_torch, shapes[path]).shape)
        for key, path, rule in _keys(shapes, name_table(model))
    }
