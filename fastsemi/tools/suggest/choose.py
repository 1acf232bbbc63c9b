"""The images whose labels say most about the others: typical ones of groups that have no label yet.

TypiClust of Hacohen et al., "Active Learning on a Budget" (2022), on the main components of the features.
With few labels a model's doubts mislead: measured beside labels at random in docs/results.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from fastsemi.probing.classifiers import Scale

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

DIMENSIONS = 64  # main components: distances in all pixels or features take longer and tell no more
MOST_GROUPS = 500
NEIGHBOURS = 20
SMALLEST = 5  # images of a group; smaller ones are probably outliers and come last


def main_components(x: Array) -> Array:
    """Features [N, D] in few dimensions [N, K], directions and distances kept as far as these allow."""
    scaled = Scale.of(x)(x)
    pca = PCA(min(DIMENSIONS, *x.shape), svd_solver="randomized", random_state=0)
    return pca.fit_transform(scaled).astype(np.float32)


def choose(x: Array, known: Ids, count: int, seed: int = 0) -> Ids:
    """Choose images to label.

    As many groups as there will be labels; one image after another is taken from a group that has fewest
    labels, the largest of these, and in it the most typical image without a label.

    Args:
        x: [N, K] where each image lies, of `main_components`.
        known: [L] those that have a label.
        count: How many, at most N - L.
        seed: Of the groups.

    Returns:
        [count] positions, the most useful first.
    """
    groups = _groups(x, min(len(known) + count, MOST_GROUPS, len(x)), seed)
    worth = typicality(x, groups)
    sizes = np.bincount(groups)
    labels = np.bincount(groups[known], minlength=len(sizes))
    free = np.ones(len(x), bool)
    free[known] = False
    chosen = []
    for _ in range(count):
        empty = np.bincount(groups[free], minlength=len(sizes)) == 0
        group = np.lexsort((-sizes, labels, sizes < SMALLEST, empty))[0]
        mine = np.flatnonzero(free & (groups == group))
        image = mine[worth[mine].argmax()]
        chosen.append(image)
        free[image] = False
        labels[group] += 1
    return np.array(chosen, np.int64)


def _groups(x: Array, count: int, seed: int) -> Ids:
    with threadpool_limits(1):
        return KMeans(count, n_init=1, random_state=seed).fit_predict(x).astype(np.int64)


def typicality(x: Array, groups: Ids) -> Array:
    """[N] one over the mean distance to the nearest images of the same group; 0 where there is none."""
    found = np.zeros(len(x), np.float32)
    for group in np.unique(groups):
        mine = np.flatnonzero(groups == group)
        if len(mine) > 1:
            near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(mine) - 1)).fit(x[mine])
            found[mine] = 1 / (near.kneighbors()[0].mean(axis=1) + 1e-5)
    return found
