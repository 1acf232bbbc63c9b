"""Label spreading: labels flow to unlabelled images along a graph of neighbours.

Zhou et al., "Learning with Local and Global Consistency" (2004), on the symmetric graph of the nearest
neighbours, with the class mass normalisation of Zhu et al. (2003). scikit-learn's `LabelSpreading` differs in
both: its graph is not symmetric and large classes swallow small ones. On the pixels of Fashion-MNIST with 10
labels a class this is several points better, and a baseline should be as good as it can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastsemi.probing.folds import folds

if TYPE_CHECKING:
    import scipy.sparse as sp
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

Array = NDArray[np.float32]

DIMENSIONS = 64  # main components in which neighbours are looked for: as good, and a fraction of the time
NEIGHBOURS = 5
SHARE = 0.99  # alpha, how much of a label comes from the neighbours
ROUNDS = 60
LEAST = 1e-4  # variance, of the largest, that a component needs to be told from noise


@dataclass(frozen=True)
class Space:
    """A space in which images are near each other or not, and the nearest of each."""

    pca: PCA
    cosine: bool
    """Whether components are of equal variance and only their direction counts."""
    nearest: NearestNeighbors
    neighbours: NDArray[np.int64]  # [N, K] of each image, itself left out

    @classmethod
    def of(cls, every: Array, *, cosine: bool) -> Space:
        """Find the neighbours of all images, [N, D]."""
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        pca = PCA(min(DIMENSIONS, *every.shape), svd_solver="randomized", random_state=0).fit(every)
        if cosine:
            known = int((pca.explained_variance_ > LEAST * pca.explained_variance_[0]).sum())
            pca = PCA(max(1, known), whiten=True, svd_solver="randomized", random_state=0).fit(every)
        components = pca.transform(every)
        components = _directions(components) if cosine else components
        nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(every) - 1)).fit(components)
        return cls(pca, cosine, nearest, nearest.kneighbors(return_distance=False))

    def near(self, x: Array) -> NDArray[np.int64]:
        """The nearest [M, K] of images [M, D] that are not among them."""
        components = self.pca.transform(x)
        components = _directions(components) if self.cosine else components
        return self.nearest.kneighbors(components, return_distance=False)


def _directions(components: Array) -> Array:
    """Rows of length 1."""
    from sklearn.preprocessing import normalize

    return normalize(components)


@dataclass(frozen=True)
class Graph:
    """Images and their nearest neighbours, the labelled ones first.

    Two spaces are tried: distances between the images' main components, and the angles between the same
    components when all have equal variance. Which is better depends on the data (docs/results.md), so the
    labels choose. They cannot choose among features that were trained on them; there the angles were better
    at each of four times of a run, by one to ten points.
    """

    spaces: tuple[Space, ...]

    @classmethod
    def of(cls, every: Array, *, trained: bool = False) -> Graph:
        """Find neighbours.

        Args:
            every: [N, D] scaled features, the labelled images first.
            trained: Whether the features were trained on these labels.
        """
        kinds = (True,) if trained else (False, True)
        return cls(tuple(Space.of(every, cosine=cosine) for cosine in kinds))

    def spread(self, y: NDArray[np.int64], known: NDArray[np.int64] | None = None) -> Spread:
        """Spread the labels, in the space that does best in cross-validation on them.

        Args:
            y: [L] classes of the labelled images.
            known: [L] which images these are; by default the first ones.
        """
        known = np.arange(len(y)) if known is None else known
        classes, codes = np.unique(y, return_inverse=True)
        flows = [_flow(space) for space in self.spaces]
        judged = len(flows) > 1  # features that were trained on the labels would look right in any case
        scores = [_score(flow, codes, known, len(classes)) if judged else 0.0 for flow in flows]
        chosen = int(np.argmax(scores))
        shares = _run(flows[chosen], _start(flows[chosen], codes, known, len(classes)))
        shares = _balanced(shares, np.bincount(codes, minlength=len(classes)))
        return Spread(self.spaces[chosen], shares, classes, known, scores[chosen])


def _score(flow: sp.csr_matrix, codes: NDArray[np.int64], known: NDArray[np.int64], classes: int) -> float:
    """Accuracy in cross-validation on the labels, in [0, 1]; 0 where they are too few for it."""
    split = folds(codes)
    if split is None:
        return 0.0
    parts = list(split.split(codes, codes))
    starts = [_start(flow, codes[train], known[train], classes) for train, _ in parts]
    shares = _run(flow, np.hstack(starts)).reshape(flow.shape[0], len(parts), classes)
    hits = 0
    for fold, (train, test) in enumerate(parts):
        found = _balanced(shares[:, fold], np.bincount(codes[train], minlength=classes))
        hits += int((found[known[test]].argmax(axis=1) == codes[test]).sum())
    return hits / len(codes)


def _flow(space: Space) -> sp.csr_matrix:
    """D^-1/2 W D^-1/2 of the symmetric graph of neighbours."""
    import scipy.sparse as sp

    mine = space.neighbours
    rows = np.repeat(np.arange(len(mine)), mine.shape[1])
    ones = np.ones(len(rows), np.float32)
    weights = sp.csr_matrix((ones, (rows, mine.ravel())), shape=(len(mine), len(mine)))
    weights = weights.maximum(weights.T)
    root = sp.diags(np.asarray(weights.sum(axis=1)).ravel() ** -0.5)
    return (root @ weights @ root).tocsr().astype(np.float32)


def _start(flow: sp.csr_matrix, codes: NDArray[np.int64], known: NDArray[np.int64], classes: int) -> Array:
    start = np.zeros((flow.shape[0], classes), np.float32)
    start[known, codes] = 1
    return start


@dataclass(frozen=True)
class Spread:
    """Labels that have been spread."""

    space: Space
    shares: Array  # [N, C] of each class in each image, adding up to 1
    classes: NDArray[np.int64]  # [C]
    known: NDArray[np.int64]  # [L] which images had a label
    score: float
    """Accuracy in cross-validation on the labels, in [0, 1]; 0 where they were too few for it."""

    def classify(self, x: Array) -> NDArray[np.int64]:
        """Classes [M] of images that were not in the graph, [M, D]: what their neighbours have."""
        near = self.space.near(x)
        return self.classes[self.shares[near].sum(axis=1).argmax(axis=1)]

    def unlabelled(self) -> tuple[NDArray[np.int64], Array]:
        """Class and confidence of each unlabelled image, [U]."""
        shares = np.delete(self.shares, self.known, axis=0)
        return self.classes[shares.argmax(axis=1)], shares.max(axis=1)


def _run(flow: sp.csr_matrix, start: Array) -> Array:
    """F <- alpha S F + (1 - alpha) Y, repeated; the columns are independent."""
    shares = start
    for _ in range(ROUNDS):
        shares = SHARE * (flow @ shares) + (1 - SHARE) * start
    return shares


def _balanced(shares: Array, counts: NDArray[np.int64]) -> Array:
    """Every class gets the mass that it has among the labels; rows then add up to 1."""
    shares = shares * (counts / np.maximum(shares.sum(axis=0), 1e-30))
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-30)
