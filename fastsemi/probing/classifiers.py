"""Simple classifiers of scikit-learn on features: what a user has without a trainer.

This room imports scikit-learn where it is used, as that takes longer than many commands.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastsemi.probing.features import FeatureSet
from fastsemi.probing.folds import folds
from fastsemi.probing.spreading import Graph, Spread

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Array = NDArray[np.float32]

# Self-training, chosen on the labels of seeds 10 to 14 of real pictures (docs/results.md).
SURE = 0.7  # least probability
SURE_WEIGHT = 0.5
SURE_OF_VIEWS = 0.75  # of the mean over several views
SURE_WEIGHT_OF_VIEWS = 0.25
MOST_EVENING = 3.0  # factor on the weight of a class that is seldom sure
MOST_C_OF_VIEWS = 1.0  # chosen on few labels, C is now and then far too large; of as many labels a class
# Labels of the largest class by those of the smallest, from where on a small C drowns small classes: measured
# at 1 and from 5 on, not between.
UNEVEN = 2.0
ROUNDS = 5
MOST_SELF_TAUGHT = 10_000  # unlabelled images

UNKNOWN = -10.0  # logit of a class without labels


@dataclass(frozen=True)
class Scale:
    """Features about their mean, of unit variance on the whole: what regularisation is told in."""

    mean: Array  # [D]
    deviation: float

    @classmethod
    def of(cls, x: Array) -> Scale:
        """From features [N, D]; unlabelled images may be among them."""
        mean = x.mean(axis=0)
        return cls(mean, float(np.sqrt(np.mean((x - mean) ** 2))) or 1.0)

    def __call__(self, x: Array) -> Array:
        """Scaled features."""
        return (x - self.mean) / self.deviation


@dataclass(frozen=True)
class LinearHead:
    """Logits = x @ weight.T + bias of unscaled features."""

    weight: NDArray[np.float32]  # [C, D]
    bias: NDArray[np.float32]  # [C]


def logistic_regression(labelled: FeatureSet, scale: Scale) -> LogisticRegression:
    """Multinomial logistic regression of scaled features; C by cross-validation on the labels.

    C with the least log loss, not with the most hits: its probabilities are then worth believing, which the
    pseudo labels of a network that starts from it need.

    Args:
        labelled: Images with their classes; at least two classes.
        scale: Of the features.
    """
    from sklearn.linear_model import LogisticRegression

    grid = {"C": [10.0 ** (k / 2) for k in range(-8, 5)]}
    model = LogisticRegression(max_iter=500)
    return _in_span(scale(labelled.x), lambda x: _tuned(model, grid, x, labelled.y, scoring="neg_log_loss"))


def self_training(
    labelled: FeatureSet,
    unlabelled: Array,
    scale: Scale,
    first: LogisticRegression | None = None,
    views: Sequence[tuple[Array, Array]] = (),
) -> LogisticRegression:
    """Logistic regression that learns from its own sure predictions too, in a few rounds (Scudder, 1965).

    Each round fits anew on the labelled images and, by a smaller weight, on the unlabelled ones of which the
    round before was sure. scikit-learn's `SelfTrainingClassifier` never takes a label back and has no weight.

    With further views of the same images it is sure of the mean over the views, and learns from each view by
    the image's weight divided among them. A class that is sure of fewer images than the probabilities of all
    images make probable then weighs more, and all unlabelled images together no more than the labelled ones:
    else one class can swallow the others. The inverse strength C of the penalty is at most 1 then, unless
    some classes have far fewer labels than others: so strong a penalty takes nearly all images for the large.

    Args:
        labelled: Images with their classes; at least two classes.
        unlabelled: [U, D] features.
        scale: Of the features.
        first: The logistic regression of the labelled images, where it has been fitted.
        views: Of each further view the features [L, D] of the labelled images and [U, D] of the others.
    """
    model = first or logistic_regression(labelled, scale)
    some = evenly(len(unlabelled), MOST_SELF_TAUGHT)
    known = [scale(x) for x in (labelled.x, *(view[0] for view in views))]
    rest = [scale(x[some]) for x in (unlabelled, *(view[1] for view in views))]
    counts = np.unique(labelled.y, return_counts=True)[1]
    bounded = bool(views) and counts.max() <= UNEVEN * counts.min()
    strength = min(model.C, MOST_C_OF_VIEWS) if bounded else model.C
    least, weight = (SURE_OF_VIEWS, SURE_WEIGHT_OF_VIEWS) if views else (SURE, SURE_WEIGHT)
    if views:
        model = _fit_views(known, labelled.y, np.ones(len(labelled.y)), strength)
    before: NDArray[np.int64] | None = None
    for _ in range(ROUNDS if len(some) else 0):
        shares = _mean_shares(model, rest)
        taught = np.where(shares.max(axis=1) >= least, model.classes_[shares.argmax(axis=1)], -1)
        if before is not None and np.array_equal(taught, before):
            break
        before, sure = taught, taught >= 0
        every = [np.concatenate([x, more[sure]]) for x, more in zip(known, rest, strict=True)]
        labels, learnt = taught[sure], np.full(sure.sum(), weight)
        if views:
            learnt = np.minimum(weight, len(labelled.y) / max(1, len(labels))) * _evened(
                np.searchsorted(model.classes_, labels), shares
            )
        weights = np.concatenate([np.ones(len(labelled.y)), learnt])
        model = _fit_views(every, np.concatenate([labelled.y, labels]), weights, strength)
    return model


def _evened(sure: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors [N] on the weights of images of class `sure` [N]: as often as in the probabilities [U, C]."""
    counts = np.bincount(sure, minlength=shares.shape[1])
    wanted, are = shares.mean(axis=0), counts / max(1, len(sure))
    factors = np.minimum(MOST_EVENING, wanted / np.maximum(are, 1e-12))
    return factors[sure]  # type: ignore[no-any-return]


def _fit_views(
    views: list[Array], labels: NDArray[np.int64], weights: NDArray[np.float64], strength: float
) -> LogisticRegression:
    """Fit on V views [N, D] of images with labels [N] and weights [N], which the views of an image share."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    count = len(views)
    shared = np.tile(weights / count, count)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=500)
        fit = partial(model.fit, y=np.tile(labels, count), sample_weight=shared)
        return _in_span(np.concatenate(views), fit)


def _mean_shares(model: LogisticRegression, views: list[Array]) -> NDArray[np.float64]:
    """Probabilities [N, C], their mean over V views [N, D]."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.mean([model.predict_proba(x) for x in views], axis=0)


def _in_span(every: Array, fit: Callable[[Array], LogisticRegression]) -> LogisticRegression:
    """Fit a linear classifier in the space that few images span, where far less is to be computed.

    With an L2 penalty its weights lie in that space (representer theorem; Kimeldorf and Wahba, 1971).

    Args:
        every: [N, D] features.
        fit: Fits N rows of any width.
    """
    from threadpoolctl import threadpool_limits

    if 2 * len(every) > every.shape[1]:
        return fit(every)
    with threadpool_limits(1):
        basis = np.linalg.qr(every.T).Q  # [D, N]
        model = fit(every @ basis)
    model.coef_ = model.coef_ @ basis.T
    model.n_features_in_ = every.shape[1]
    return model


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions of `count`, spread out evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def linear_head(model: LogisticRegression, scale: Scale, classes: int) -> LinearHead:
    """A fitted logistic regression as a network's classifier; unknown classes get low logits."""
    weight = np.zeros((classes, len(scale.mean)), np.float32)
    bias = np.full(classes, UNKNOWN, np.float32)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn then keeps the difference of the two alone
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.hstack([-intercepts, intercepts]) / 2
    weight[model.classes_] = coefficients / scale.deviation
    bias[model.classes_] = intercepts - coefficients @ scale.mean / scale.deviation
    return LinearHead(weight, bias)


def predictions(
    labelled: FeatureSet, unlabelled: Array, evaluated: Array, spread: Callable[[], Spread] | None = None
) -> dict[str, Callable[[], NDArray[np.int64]]]:
    """Each classifier by name; called, it is fitted and classifies `evaluated`.

    Args:
        labelled: Images with their classes.
        unlabelled: [U, D] features that label spreading uses besides.
        evaluated: [N, D] features to classify.
        spread: Spreads the labels among the scaled features; by default anew.
    """
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401  now, so that it is not in the time of the first fit
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize
    from sklearn.svm import SVC

    scale = Scale.of(np.concatenate([labelled.x, unlabelled]))
    x, y = scale(labelled.x), labelled.y
    rest, target = scale(unlabelled), scale(evaluated)
    spread = spread or (lambda: Graph.of(np.concatenate([x, rest])).spread(y))
    regression = functools.cache(lambda: logistic_regression(labelled, scale))  # tuning takes the time
    return {
        "logistic regression": lambda: regression().predict(target),
        "self-training": lambda: self_training(labelled, unlabelled, scale, regression()).predict(target),
        "SVM": lambda: _tuned(SVC(), {"C": [0.1, 1.0, 10.0, 100.0]}, x, y).predict(target),
        "nearest neighbours": lambda: _tuned(
            KNeighborsClassifier(1), {"n_neighbors": _neighbours(y)}, normalize(x), y
        ).predict(normalize(target)),
        "prototypes": lambda: _prototypes(normalize(x), y, normalize(target)),
        "label spreading": lambda: spread().classify(target),
    }


def _prototypes(x: Array, y: NDArray[np.int64], target: Array) -> NDArray[np.int64]:
    from sklearn.neighbors import NearestCentroid

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pixels that are the same in all images of a class
        return NearestCentroid().fit(x, y).predict(target)


def _neighbours(y: NDArray[np.int64]) -> list[int]:
    least = int(np.unique(y, return_counts=True)[1].min())
    return [k for k in (1, 3, 5) if k <= max(1, least)]


def _tuned(
    model: Any, grid: dict[str, list[Any]], x: Array, y: NDArray[np.int64], scoring: str | None = None
) -> Any:
    """A fitted model with the best of the settings in `grid`; its own where labels are too few to choose."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from threadpoolctl import threadpool_limits

    # The matrices are small: threads that meet after each product cost more than they bring.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        split = folds(y)
        if split is None:
            return model.fit(x, y)
        return GridSearchCV(model, grid, cv=split, scoring=scoring).fit(x, y).best_estimator_
