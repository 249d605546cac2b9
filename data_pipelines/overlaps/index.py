"""Multi-index hashing: which of some hundred thousand images have a hash near that of another image.

After Norouzi, Punjani and Fleet, *Fast Search in Hamming Space with Multi-Index Hashing* (CVPR 2012), with the probes
of Lv et al., *Multi-Probe LSH* (VLDB 2007): every word of a hash (see ``hashing``) gives a key from its lowest
frequencies, and two images are compared only if they share a key in some word, exactly or after flipping some of the
least certain bits. There are about as many keys as hashes in the index, so the number of comparisons a query needs does
not grow with it: some thousands, of pairs of hashes, not the millions that there are.
"""

from typing import NamedTuple

import numpy as np

from data_pipelines.overlaps.hashing import VIEWS, WORDS

LEAST_KEY_BITS, MOST_KEY_BITS = 16, 24
"""Bits of a key, of 32: between these, as many as make about as many keys as there are hashes."""
MAX_DISTANCE = 30
"""The largest number of differing bits, of 127, of two hashes that are near."""
MAX_BUCKET = 256
"""A key that more hashes share is passed over: it says little, and would cost much."""

_FLIPS = 4  # how many of a key's least certain bits are tried both ways
_AT_ONCE = 32  # images that are looked up together; bounds the memory


class Neighbours(NamedTuple):
    """Pairs of a query and an image of the index with near hashes, in the order of the queries, the nearest first."""

    query: np.ndarray  # int64 ``(pairs,)``
    image: np.ndarray  # int64 ``(pairs,)``: number of the image in the index
    distance: np.ndarray  # int64 ``(pairs,)``: differing bits of their nearest hashes
    views: np.ndarray  # int64 ``(pairs, 2)``: which hash of the query and of the image these are
    examined: int  # how many pairs of hashes were compared


class HashIndex(NamedTuple):
    """Hashes of images in a table for each word: the hashes with key k are ``entries[starts[k]:starts[k + 1]]``."""

    hashes: np.ndarray  # uint32 ``(images * 16, 4)``: hash v of image i is row 16 i + v
    starts: np.ndarray  # int32 ``(4, 2 ** key_bits + 1)``
    entries: np.ndarray  # int32 ``(4, rows)``: rows of ``hashes``, those of images that are not flat

    @classmethod
    def build(cls, hashes: np.ndarray, usable: np.ndarray) -> "HashIndex":
        """Index uint32 ``(images, 16, 4)``, but for the images that bool ``(images,)`` says to leave out.

        There may be up to 134 million images.
        """
        rows = np.flatnonzero(np.repeat(usable, VIEWS)).astype(np.int32)
        bits = min(max(LEAST_KEY_BITS, len(rows).bit_length() - 1), MOST_KEY_BITS)
        hashes = hashes.reshape(-1, WORDS)
        starts = np.zeros((WORDS, 2**bits + 1), np.int32)
        entries = np.empty((WORDS, len(rows)), np.int32)
        for word in range(WORDS):
            keys = hashes[rows, word] & np.uint32(2**bits - 1)
            entries[word] = rows[np.argsort(keys, kind="stable")]
            np.cumsum(np.bincount(keys, minlength=2**bits), out=starts[word, 1:])
        return cls(hashes, starts, entries)

    @property
    def key_bits(self) -> int:
        """Bits of a key."""
        return (self.starts.shape[1] - 1).bit_length() - 1

    def passed_over(self) -> tuple[int, int]:
        """How many keys are shared by more than ``MAX_BUCKET`` hashes, and how many images have no other key."""
        crowded = np.diff(self.starts, axis=1) > MAX_BUCKET
        reachable = np.zeros(len(self.hashes) // VIEWS, bool)
        indexed = np.zeros_like(reachable)
        for word in range(WORDS):
            rows = self.entries[word]
            keys = self.hashes[rows, word] & np.uint32(2**self.key_bits - 1)
            indexed[rows // VIEWS] = True
            reachable[rows[~crowded[word, keys]] // VIEWS] = True
        return int(crowded.sum()), int((indexed & ~reachable).sum())

    def search(self, hashes: np.ndarray, magnitudes: np.ndarray) -> Neighbours:
        """The images near to queries, given as ``hash_views`` returns them: ``(n, 16, 4)`` and ``(n, 16, 4, 32)``."""
        starts = range(0, max(len(hashes), 1), _AT_ONCE)
        parts = [self._search(hashes[i : i + _AT_ONCE], magnitudes[i : i + _AT_ONCE], i) for i in starts]
        query, image, distance, views = (np.concatenate([part[k] for part in parts]) for k in range(4))
        return Neighbours(query, image, distance, views, sum(part.examined for part in parts))

    def _search(self, hashes: np.ndarray, magnitudes: np.ndarray, first: int) -> Neighbours:
        pairs, examined = [], 0  # rows, entries and distances of near hashes
        flat = hashes.reshape(-1, WORDS)
        own, known = flat.view(np.uint64), self.hashes.view(np.uint64)
        for word in range(WORDS):
            keys = self._probes(flat[:, word], magnitudes[:, :, word].reshape(-1, 32))
            begin = self.starts[word, keys].astype(np.int64)
            size = self.starts[word, keys + 1] - begin
            size[size > MAX_BUCKET] = 0
            row = np.repeat(np.arange(len(flat)), size.sum(axis=1))
            begin, size = begin[size > 0], size[size > 0]
            entry = self.entries[word, np.arange(size.sum()) + np.repeat(begin - np.cumsum(size) + size, size)]
            distance = np.bitwise_count(own[row] ^ known[entry]).sum(axis=1, dtype=np.int64)
            near = distance <= MAX_DISTANCE
            examined += len(entry)
            pairs.append(np.stack([row[near], entry[near], distance[near]]))
        row, entry, distance = np.concatenate(pairs, axis=1)
        # The nearest pair of hashes of each pair of images, then the images by nearness.
        order = np.lexsort((entry, row, distance))
        pair = row // VIEWS * (len(self.hashes) // VIEWS) + entry // VIEWS
        best = order[np.unique(pair[order], return_index=True)[1]]
        best = best[np.lexsort((entry[best] // VIEWS, distance[best], row[best] // VIEWS))]
        row, entry, distance = row[best], entry[best], distance[best]
        views = np.stack([row % VIEWS, entry % VIEWS], axis=1)
        return Neighbours(first + row // VIEWS, entry // VIEWS, distance, views, examined)

    def _probes(self, words: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
        """int64 ``(n, 16)``: the keys of uint32 ``(n,)``, the four least certain bits tried both ways."""
        keys = (words & np.uint32(2**self.key_bits - 1)).astype(np.int64)[:, None]
        weakest = np.argpartition(magnitudes[:, : self.key_bits], _FLIPS - 1, axis=1)[:, :_FLIPS]
        subsets = np.arange(2**_FLIPS)[:, None] >> np.arange(_FLIPS) & 1
        return keys ^ ((1 << weakest) @ subsets.T)
