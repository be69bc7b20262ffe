"""Reviews that stand in two splits in nearly the same words: MinHash finds candidates, Jaccard decides.

Exact copies are gone before this (reviews.py).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from rensa import RMinHash, RMinHashLSH
from tqdm import tqdm

SIMILARITY = 0.8  # Jaccard similarity of character trigrams from which on two texts count as near copies
SHINGLE = 3
PERMUTATIONS, BANDS = 128, 32  # finds a pair of similarity 0.8 with probability above 0.9999
SEED = 42
# Sketches tell a similarity of 0.8 with a standard deviation of 0.035; what is far below is not compared.
SURELY_UNLIKE = 0.6
REMEMBERED = 2000  # texts whose shingles are kept at hand: those that many others are like


@dataclass(frozen=True)
class NearCopies:
    """What training and validation have in common with the test set, by position in their lists."""

    train_in_test: dict[int, tuple[int, float]]  # training text -> the test text most like it, similarity
    val_in_test: dict[int, tuple[int, float]]
    val_in_train: set[int]


class _Index:
    """Texts to be found again; each of them once for all that are compared with them."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._sketches = [_min_hash(_shingles(text)) for text in texts]
        self._hashes = RMinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS, num_bands=BANDS)
        for position, sketch in enumerate(self._sketches):
            self._hashes.insert(position, sketch)

    def find(self, shingles: frozenset[str], sketch: RMinHash) -> dict[int, float]:
        """The similarity of each near copy, by position."""
        found: dict[int, float] = {}
        for position in sorted(self._hashes.query(sketch)):
            if sketch.jaccard(self._sketches[position]) >= SURELY_UNLIKE:
                other = _remembered(self._texts[position])
                found[position] = len(shingles & other) / len(shingles | other)
        return {position: alike for position, alike in found.items() if alike >= SIMILARITY}


def find_near_copies(train: list[str], val: list[str], test: list[str], bar: tqdm) -> NearCopies:
    """The texts that stand in two splits in nearly the same words."""
    in_test, in_val = _Index(test), _Index(val)
    found = NearCopies({}, {}, set())
    for texts, known in ((train, found.train_in_test), (val, found.val_in_test)):
        for position, text in enumerate(texts):
            shingles = _shingles(text)
            sketch = _min_hash(shingles)
            if near := in_test.find(shingles, sketch):
                known[position] = max(near.items(), key=itemgetter(1))
            if texts is train:
                found.val_in_train.update(in_val.find(shingles, sketch))
            bar.update()
    return found


def _shingles(text: str) -> frozenset[str]:
    """Character trigrams of the letters alone: case, blanks and punctuation do not make texts differ."""
    letters = re.sub(r"[\W_]+", "", text.casefold()) or text
    return frozenset(letters[i : i + SHINGLE] for i in range(max(1, len(letters) - SHINGLE + 1)))


_remembered = lru_cache(REMEMBERED)(_shingles)


def _min_hash(shingles: frozenset[str]) -> RMinHash:
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    sketch.update(list(shingles))
    return sketch
