"""Ways to choose images to label beside that of `fastsemi suggest`: at random, by doubt, by distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.tools.suggest.choose import choose

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Images to choose from, and those that have a label."""

    x: NDArray[np.float32]  # [N, K] main components
    known: Ids  # [L]
    shares: NDArray[np.float64] | None = None  # [N, C] probabilities of a model, where there is one

    @property
    def free(self) -> Ids:
        """[N - L] those without a label."""
        return np.setdiff1d(np.arange(len(self.x)), self.known)

    @property
    def of_free(self) -> NDArray[np.float64]:
        """[N - L, C] probabilities of those."""
        assert self.shares is not None
        return self.shares[self.free]


def at_random(pool: Pool, count: int, seed: int) -> Ids:
    """Each image equally likely."""
    return np.random.default_rng((seed, len(pool.known))).choice(pool.free, count, replace=False)


def least_margin(pool: Pool, count: int, seed: int) -> Ids:
    """The least difference of the two largest probabilities."""
    top = np.sort(pool.of_free, axis=1)[:, -2:]
    return pool.free[np.argsort(top[:, 1] - top[:, 0], kind="stable")[:count]]


def most_entropy(pool: Pool, count: int, seed: int) -> Ids:
    """The most even probabilities."""
    p = pool.of_free
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=1)
    return pool.free[np.argsort(-entropy, kind="stable")[:count]]


def k_center(pool: Pool, count: int, seed: int) -> Ids:
    """The one furthest from all chosen ones, again and again (Sener and Savarese, 2018)."""
    x = pool.x.astype(np.float64)
    nearest, chosen = np.full(len(x), np.inf), list(pool.known)
    if not chosen:
        chosen = [int(((x - x.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    for i in chosen:
        nearest = np.minimum(nearest, ((x - x[i]) ** 2).sum(axis=1))
    while len(chosen) < len(pool.known) + count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((x - x[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen[len(pool.known) :])


def badge(pool: Pool, count: int, seed: int) -> Ids:
    """k-means++ on the gradients of the classifier, as if predictions were right (Ash et al., 2020).

    Such a gradient is the product of (p - one-hot) and the features, so products of two of them factor.
    """
    errors, x = pool.of_free.copy(), pool.x[pool.free].astype(np.float64)
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
    square = (errors**2).sum(axis=1) * (x**2).sum(axis=1)
    random, chosen, nearest = np.random.default_rng(seed), [int(square.argmax())], np.full(len(x), np.inf)
    while len(chosen) < count:
        i = chosen[-1]
        product = (errors @ errors[i]) * (x @ x[i])
        nearest = np.minimum(nearest, np.maximum(square + square[i] - 2 * product, 0))
        nearest[chosen] = 0
        chosen.append(int(random.choice(len(x), p=nearest / nearest.sum())))
    return pool.free[chosen]


def typical(pool: Pool, count: int, seed: int) -> Ids:
    """What `fastsemi suggest` chooses."""
    return choose(pool.x, pool.known, count, seed)


FIRST: dict[str, Callable[[Pool, int, int], Ids]] = {
    "random": at_random,
    "suggest": typical,
}
NEXT = {
    **{"random": at_random, "least margin": least_margin, "most entropy": most_entropy, "BADGE": badge},
    **{"k-center": k_center, "suggest": typical},
}
