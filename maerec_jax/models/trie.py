"""Tries of the words that may be read: built by NumPy, walked on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Trie(NamedTuple):
    """Tries of one or many word lists. Each list has a root, and the children of a node have consecutive numbers."""

    first_child: Array | np.ndarray
    """int32 (nodes + 1): the children of node n are ``first_child[n]`` up to, not including, ``first_child[n + 1]``."""
    label: Array | np.ndarray
    """int (nodes): the folded class that leads to each node; anything for roots."""
    word: Array | np.ndarray
    """int32 (nodes): the number of the word that ends at each node, or -1."""
    fold: Array | np.ndarray
    """int32 (classes): the folded class of each class, the same for all cases of a character where case is ignored."""


def next_nodes(trie: Trie, node_BK: Array, end: int) -> Array:
    """Where each class leads from each node, int32 (B, K, classes); -1 where it may not be written.

    Class ``end`` leads back to the node itself, where a word ends.
    """
    first_child, label, word, fold = map(jnp.asarray, trie)  # NumPy arrays cannot be indexed by what is traced
    classes = len(fold)
    # A node has at most one child for each class.
    child_BKC = first_child[node_BK][..., None] + jnp.arange(classes)
    is_child_BKC = child_BKC < first_child[node_BK + 1][..., None]
    label_BKC = jnp.where(is_child_BKC, label.at[child_BKC].get(mode="clip").astype(jnp.int32), classes)

    def by_label(label_C: Array, child_C: Array) -> Array:
        return jnp.full(classes, -1, jnp.int32).at[label_C].set(child_C, mode="drop")

    folded_BKC = jax.vmap(jax.vmap(by_label))(label_BKC, child_BKC)
    own_BK = jnp.where(word[node_BK] >= 0, node_BK, -1)
    return folded_BKC[..., fold].at[..., end].set(own_BK)


def _ranks(labels_UL: np.ndarray) -> np.ndarray:
    """The place of each row in alphabetical order; equal rows share one."""
    digits_UL = np.ascontiguousarray(labels_UL, labels_UL.dtype.newbyteorder(">"))  # whose bytes are in their order
    words_U = digits_UL.view(f"S{labels_UL.shape[1] * labels_UL.itemsize}").reshape(len(labels_UL))
    return np.unique(words_U, return_inverse=True)[1]


def build_trie(
    list_E: np.ndarray, word_E: np.ndarray, labels_UL: np.ndarray, length_U: np.ndarray, lists: int, fold: np.ndarray
) -> Trie:
    """The tries of word lists, level by level: the roots in the order of the lists, then all of their children, ...

    Args:
      list_E: the list of each entry.
      word_E: the word of each entry.
      labels_UL: folded classes + 1 of each word, 0 after its end.
      length_U: lengths of the words.
      lists: number of lists.
      fold: folded class of each class.

    Returns:
      NumPy arrays.
    """
    # In alphabetical order, the entries below a node stand together, and those that end there come first.
    order = np.argsort(list_E * len(labels_UL) + _ranks(labels_UL)[word_E], kind="stable")
    word_E, node_E = word_E[order], list_E[order]
    labels, words, children = [np.zeros(lists, labels_UL.dtype)], [np.full(lists, -1, np.int32)], []
    nodes = lists
    for place in range(labels_UL.shape[1]):
        longer = length_U[word_E] > place
        word_E, node_E = word_E[longer], node_E[longer]
        label_E = labels_UL[word_E, place]
        new_E = np.ones(len(word_E), bool)
        new_E[1:] = (node_E[1:] != node_E[:-1]) | (label_E[1:] != label_E[:-1])
        first = word_E[new_E]
        labels.append(label_E[new_E] - 1)
        words.append(np.where(length_U[first] == place + 1, first, -1).astype(np.int32))
        children.append(node_E[new_E])
        node_E = nodes + np.cumsum(new_E) - 1
        nodes += len(first)
    n_children = np.bincount(np.concatenate(children), minlength=nodes)
    first_child = lists + np.concatenate([[0], np.cumsum(n_children)])
    return Trie(first_child.astype(np.int32), np.concatenate(labels), np.concatenate(words), fold)
