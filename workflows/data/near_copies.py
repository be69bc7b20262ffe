"""Reviews that stand in two splits in nearly the same words: MinHash finds candidates, Jaccard decides.

Exact copies are gone before this (reviews.py).
"""

import re

from rensa import RMinHash, RMinHashLSH

from workflows.data.reviews import Review

SIMILARITY = 0.8  # Jaccard similarity of character trigrams from which on two texts count as near copies
SHINGLE = 3
PERMUTATIONS, BANDS = 128, 32  # finds a pair of similarity 0.8 with probability above 0.9999
SEED = 42


def find_near_copies(reviews: list[Review], others: list[Review]) -> dict[str, tuple[str, float]]:
    """For the id of each review that has a near copy among `others`: that one's id, and their similarity."""
    shingles = [_shingles(other.text) for other in others]
    index = RMinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS, num_bands=BANDS)
    for position, known in enumerate(shingles):
        index.insert(position, _min_hash(known))
    found: dict[str, tuple[str, float]] = {}
    for review in reviews:
        mine = _shingles(review.text)
        candidates = [
            (len(mine & shingles[position]) / len(mine | shingles[position]), -position)
            for position in index.query(_min_hash(mine))
        ]
        similarity, position = max(candidates, default=(0.0, 0))
        if similarity >= SIMILARITY:
            found[review.id] = (others[-position].id, similarity)
    return found


def _shingles(text: str) -> set[str]:
    """Character trigrams of the letters alone: case, blanks and punctuation do not make texts differ."""
    letters = re.sub(r"[\W_]+", "", text.casefold()) or text
    return {letters[i : i + SHINGLE] for i in range(max(1, len(letters) - SHINGLE + 1))}


def _min_hash(shingles: set[str]) -> RMinHash:
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    sketch.update(list(shingles))
    return sketch
