"""Label spreading: labels flow to unlabelled images along a graph of neighbours.

Zhou et al., "Learning with Local and Global Consistency" (2004), on the symmetric graph of the nearest
neighbours, with the class mass normalisation of Zhu et al. (2003). scikit-learn's `LabelSpreading` differs in
both: its graph is not symmetric and large classes swallow small ones. On the pixels of Fashion-MNIST with 10
labels a class this is several points better, and a baseline should be as good as it can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from fastsemi.probe.folds import folds

Array = NDArray[np.float32]

DIMENSIONS = 64  # main components in which neighbours are looked for: as good, and a fraction of the time
NEIGHBOURS = (5, 10)  # tried
SHARES = (0.9, 0.99)  # tried for alpha, how much of a label comes from the neighbours
ROUNDS = 60


@dataclass(frozen=True)
class Graph:
    """Images and their nearest neighbours, the labelled ones first."""

    pca: PCA | None
    nearest: NearestNeighbors
    neighbours: NDArray[np.int64]  # [N, K] of each image, itself left out

    @classmethod
    def of(cls, labelled: Array, unlabelled: Array) -> Graph:
        """Find neighbours.

        Args:
            labelled: [L, D] scaled features.
            unlabelled: [U, D].
        """
        every = np.concatenate([labelled, unlabelled])
        components, pca = min(DIMENSIONS, *every.shape), None
        if components < every.shape[1]:
            pca = PCA(components, svd_solver="randomized", random_state=0).fit(every)
            every = pca.transform(every)
        nearest = NearestNeighbors(n_neighbors=min(max(NEIGHBOURS), len(every) - 1)).fit(every)
        return cls(pca, nearest, nearest.kneighbors(return_distance=False))

    def spread(self, y: NDArray[np.int64]) -> Spread:
        """Spread the labels; the number of neighbours and alpha by cross-validation on them.

        Args:
            y: [L] classes of the labelled images.
        """
        classes, codes = np.unique(y, return_inverse=True)
        split = folds(y)
        parts = list(split.split(codes, codes)) if split else []
        best, best_score = (NEIGHBOURS[0], SHARES[-1]), 0.0
        for count in NEIGHBOURS if parts else ():
            flow = self._flow(count)
            for share in SHARES:
                starts = [self._start(codes, train, len(classes)) for train, _ in parts]
                shares = _run(flow, share, np.hstack(starts)).reshape(len(self.neighbours), len(parts), -1)
                hits = 0
                for fold, (train, test) in enumerate(parts):
                    found = _balanced(shares[:, fold], np.bincount(codes[train], minlength=len(classes)))
                    hits += int((found[test].argmax(axis=1) == codes[test]).sum())
                if hits / len(y) > best_score:
                    best, best_score = (count, share), hits / len(y)
        every = np.arange(len(y))
        shares = _run(self._flow(best[0]), best[1], self._start(codes, every, len(classes)))
        shares = _balanced(shares, np.bincount(codes, minlength=len(classes)))
        return Spread(self, best[0], shares, classes, len(y), best_score)

    def _flow(self, count: int) -> sp.csr_matrix:
        """D^-1/2 W D^-1/2 of the symmetric graph of `count` neighbours."""
        mine = self.neighbours[:, :count]
        rows = np.repeat(np.arange(len(mine)), mine.shape[1])
        ones = np.ones(len(rows), np.float32)
        weights = sp.csr_matrix((ones, (rows, mine.ravel())), shape=(len(mine), len(mine)))
        weights = weights.maximum(weights.T)
        root = sp.diags(np.asarray(weights.sum(axis=1)).ravel() ** -0.5)
        return (root @ weights @ root).tocsr().astype(np.float32)

    def _start(self, codes: NDArray[np.int64], known: NDArray[np.int64], classes: int) -> Array:
        start = np.zeros((len(self.neighbours), classes), np.float32)
        start[known, codes[known]] = 1
        return start


@dataclass(frozen=True)
class Spread:
    """Labels that have been spread."""

    graph: Graph
    count: int
    """Neighbours."""
    shares: Array  # [N, C] of each class in each image, adding up to 1
    classes: NDArray[np.int64]  # [C]
    labelled: int
    """How many images had a label; they come first."""
    score: float
    """Accuracy in cross-validation on the labels, in [0, 1]; 0 where they were too few for it."""

    def classify(self, x: Array) -> NDArray[np.int64]:
        """Classes [M] of images that were not in the graph, [M, D]: what their neighbours have."""
        x = self.graph.pca.transform(x) if self.graph.pca else x
        near = self.graph.nearest.kneighbors(x, self.count, return_distance=False)
        return self.classes[self.shares[near].sum(axis=1).argmax(axis=1)]

    def unlabelled(self) -> tuple[NDArray[np.int64], Array]:
        """Class and confidence of each unlabelled image, [U]."""
        shares = self.shares[self.labelled :]
        return self.classes[shares.argmax(axis=1)], shares.max(axis=1)


def _run(flow: sp.csr_matrix, share: float, start: Array) -> Array:
    """F <- alpha S F + (1 - alpha) Y, repeated; the columns are independent."""
    shares = start
    for _ in range(ROUNDS):
        shares = share * (flow @ shares) + (1 - share) * start
    return shares


def _balanced(shares: Array, counts: NDArray[np.int64]) -> Array:
    """Every class gets the mass that it has among the labels; rows then add up to 1."""
    shares = shares * (counts / np.maximum(shares.sum(axis=0), 1e-30))
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-30)
