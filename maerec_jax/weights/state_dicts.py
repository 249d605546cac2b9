"""Between the reference's PyTorch state dicts and our parameter trees, by the name table of the model."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from maerec_jax.models.interface import ModelConfig
from maerec_jax.models.names.table import NameTable, Rule, Tensor


def _table(model: ModelConfig) -> NameTable:
    table = model.names()
    if table is None:
        raise ValueError(f"a model of kind {model.kind!r} has no PyTorch names")
    return table


def _shapes(model: ModelConfig) -> dict[str, Any]:
    """The parameters of a model by their paths, as shapes."""
    return flatten_dict(jax.eval_shape(model.init, jax.random.key(0)), sep="/")


def params_from_state_dict(state: Mapping[str, Tensor], model: ModelConfig) -> dict:
    """Turn a reference state dict (arrays by key) into a parameter tree.

    Of a tensor that the reference writes under two keys one is enough; where there are both, the one counts that counts
    there. Constants are left out.

    Raises:
      ValueError: naming the keys that have no place in the tree, are missing, or have another shape.
    """
    table, name = _table(model), type(model).__name__
    flat: dict[str, Tensor] = {}
    aliases: dict[str, Tensor] = {}
    left_over = []
    for key, value in state.items():
        if key in table.constants:
            continue
        for rule in table.rules:
            if match := re.fullmatch(rule.pattern, key):
                try:
                    tensor = np.ascontiguousarray(rule.to_flax(np.asarray(value)))
                    (aliases if rule.alias else flat)[match.expand(rule.path)] = tensor
                except ValueError as error:
                    raise ValueError(f"{name} has no place for {key} of shape {np.shape(value)}") from error
                break
        else:
            left_over.append(key)
    if left_over:
        raise ValueError(f"keys that {name} has no place for: {', '.join(sorted(left_over))}")
    flat = aliases | flat
    wrong = [path for path, x in _shapes(model).items() if path not in flat or flat[path].shape != x.shape]
    wrong += [f"{path} (its second copy)" for path, value in aliases.items() if value.shape != flat[path].shape]
    if wrong:
        raise ValueError(f"{name} misses, or finds in another shape: {', '.join(sorted(wrong))}")
    return unflatten_dict(flat, sep="/")


def _key_of(path: str, rule: Rule) -> str | None:
    """The PyTorch key of one of our paths under a rule, or None where the rule is another path's."""
    match = re.fullmatch(re.escape(rule.path).replace(r"\\1", r"(\d+)"), path)
    if match is None:
        return None
    key = rule.pattern.replace(r"(\d+)", match.group(1)) if match.groups() else rule.pattern
    return key.replace(r"\.", ".")


def state_dict_from_params(params: Mapping, model: ModelConfig, aliases: bool = True) -> dict[str, Tensor]:
    """Turn a parameter tree, or a part of one, into a reference state dict, its constants included.

    ``aliases`` says whether tensors that the reference writes under two keys are written twice.

    Raises:
      ValueError: naming the parameters that the table does not know.
    """
    table = _table(model)
    rules = [rule for rule in table.rules if aliases or not rule.alias]
    state: dict[str, Tensor] = {}
    left_over = []
    for path, value in flatten_dict(params, sep="/").items():
        found = [(key, rule) for rule in rules if (key := _key_of(path, rule)) is not None]
        state |= {key: np.ascontiguousarray(rule.to_torch(np.asarray(value))) for key, rule in found}
        if not found:
            left_over.append(path)
    if left_over:
        raise ValueError(f"parameters without a PyTorch name: {', '.join(sorted(left_over))}")
    return state | table.constants


def state_dict_shapes(model: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The keys of a model's reference state dict, its constants left out.

    Returns:
      For each key the path of our parameter, which the keys of one tensor share, and the shape there. Of several keys
      the one that counts comes first.
    """
    rules = sorted(_table(model).rules, key=lambda rule: rule.alias)
    return {
        key: (path, jax.eval_shape(rule.to_torch, value).shape)
        for path, value in _shapes(model).items()
        for rule in rules
        if (key := _key_of(path, rule)) is not None
    }
