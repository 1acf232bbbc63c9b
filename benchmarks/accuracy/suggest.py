"""What labels are worth that `fastsemi suggest` chooses, beside labels at random and by other rules.

    python -m benchmarks.accuracy.suggest digits --config configs/demo/digits.yaml --data.root data/digits
        [--seeds 0,1,2,3,4] [--most 5000] [--recipe] --json benchmarks/results/suggest/digits.json

The first labels of all (1, 2 and 5 times as many as classes), and the next ones after 2 a class at random, as
many again. They are judged by two learners of `fastsemi probe`, top-1 on the evaluation images. The
features are the pixels, or those of the frozen network where there are weights. The seed draws what is random
of a choice; rules that doubt use the probabilities of logistic regression on the labels so far. With
`--recipe` the first 2 a class train the stages of the configuration instead, chosen at random and suggested.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmarks.accuracy.choices import FIRST, NEXT, Pool
from benchmarks.harness import harness, label_choices
from benchmarks.harness.environment import environment
from fastsemi.common.progress import Progress, QuietConsole
from fastsemi.probing.classifiers import Scale, evenly, logistic_regression
from fastsemi.probing.features import FeatureSet, frozen_features
from fastsemi.probing.spreading import Graph
from fastsemi.run import config as configuration
from fastsemi.run.baseline import frozen_network
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run
from fastsemi.tools.suggest.choose import DIMENSIONS, main_components

Ids = NDArray[np.int64]

MOST_EVALUATED = 3_000
A_CLASS = (1, 2, 5)
START = 2  # labels a class before the next ones


@dataclass(frozen=True)
class Judged:
    """What labels are worth."""

    row: dict[str, Any]
    shares: NDArray[np.float64]  # [N, C] of logistic regression


class Judge:
    """Learners of `fastsemi probe` on some labels.

    Args:
        train: Features of the training images, with all their classes.
        evaluated: Of the evaluation images.
    """

    def __init__(self, train: FeatureSet, evaluated: FeatureSet):
        scale = Scale.of(train.x)
        x, target = scale(train.x), scale(evaluated.x)
        self.y, self._truth, self.classes = train.y, evaluated.y, int(train.y.max()) + 1
        self._graph = Graph.of(x)
        self._near = [space.near(target) for space in self._graph.spaces]
        # All pixels take logistic regression seconds, a hundred times.
        pca = PCA(min(DIMENSIONS, *x.shape), svd_solver="randomized", random_state=0).fit(x)
        self._x, self._target = pca.transform(x), pca.transform(target)
        self._scale = Scale.of(self._x)

    def __call__(self, known: Ids) -> Judged:
        """Accuracies with the labels of some images."""
        labels = self.y[known]
        spread = self._graph.spread(labels, known)
        near = self._near[next(i for i, space in enumerate(self._graph.spaces) if space is spread.space)]
        spread_to = spread.classes[spread.shares[near].sum(axis=1).argmax(axis=1)]
        row = {"classes": len(np.unique(labels)), "label spreading": self._top1(spread_to)}
        if row["classes"] < 2:
            return Judged({**row, "logistic regression": row["label spreading"]}, self._one(labels))
        model = logistic_regression(FeatureSet(self._x[known], labels, known), self._scale)
        row["logistic regression"] = self._top1(model.predict(self._scale(self._target)))
        shares = np.zeros((len(self.y), self.classes))
        shares[:, model.classes_] = model.predict_proba(self._scale(self._x))
        return Judged(row, shares)

    def _top1(self, predicted: Ids) -> float:
        return 100 * float((predicted == self._truth).mean())

    def _one(self, labels: Ids) -> NDArray[np.float64]:
        return np.eye(self.classes)[np.full(len(self.y), labels[0])]


def features(config: Config, most: int) -> tuple[FeatureSet, FeatureSet]:
    """Of training images and evaluation images, some of each, spread evenly."""
    run = RunContext(config)
    try:
        network = frozen_network(run) if config.model.has_weights else None
        train, val = (
            frozen_features(
                *(network, images, images.ids[evenly(len(images.ids), count)]),
                *(run.data, run.views, run.precision),
                batch=config.eval_batch,
            )
            for images, count in ((run.data.train, most), (run.data.val, MOST_EVALUATED))
        )
    finally:
        run.close()
    return train, val


def judged(train: FeatureSet, evaluated: FeatureSet, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each choice, number of labels and seed."""
    judge, x = Judge(train, evaluated), main_components(train.x)
    classes, none = judge.classes, np.zeros(0, np.int64)
    for seed in seeds:
        for labels in (n * classes for n in A_CLASS):
            for name, rule in FIRST.items():
                found = judge(rule(Pool(x, none), labels, seed))
                yield {"part": "first", "labels": labels, "choice": name, "seed": seed, **found.row}
        start = FIRST["random"](Pool(x, none), START * classes, seed)
        before = judge(start)
        row = {"part": "next", "labels": 2 * len(start), "seed": seed}
        yield {**row, "labels": len(start), "choice": "start", **before.row}
        for name, rule in NEXT.items():
            chosen = rule(Pool(x, start, before.shares), len(start), seed)
            yield {**row, "choice": name, **judge(np.concatenate([start, chosen])).row}


def trained(config: Config, train: FeatureSet, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each choice of the first labels and seed: what the stages of a configuration end with."""
    x = main_components(train.x)
    run = RunContext(config)
    names = {int(i): run.data.train.index.relative_path(int(i)) for i in train.ids}
    count = START * len(run.data.classes)
    run.close()
    for seed in seeds:
        for name in ("random", "suggest"):
            chosen = FIRST[name](Pool(x, np.zeros(0, np.int64)), count, seed)
            output = config.output / f"{name}-{seed}"
            output.mkdir(parents=True, exist_ok=True)
            file = output / "labels.txt"
            file.write_text("".join(f"{names[int(train.ids[i])]}\n" for i in chosen))
            labels = replace(config.data.labels, per_class=None, fraction=None, file=file)
            mine = replace(config, seed=seed, output=output, data=replace(config.data, labels=labels))
            stages = Run(mine, Progress(QuietConsole(quiet=True))).train(mine.stages)["stages"]
            row = {"part": "recipe", "labels": count, "choice": name, "seed": seed}
            yield {
                **row,
                "classes": len(np.unique(train.y[chosen])),
                "teacher": stages[mine.stages[-1]]["teacher_top1"],
                "seconds": sum(stage["seconds"] for stage in stages.values()),
            }


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options, or no images.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the data, for the table")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--most", type=int, default=5_000, help="training images at most, spread evenly")
    parser.add_argument("--recipe", action="store_true", help="train the stages of the configuration")
    parser.add_argument("--json", type=Path, help="file that the rows are added to, in place of former ones")
    args, overrides = parser.parse_known_args(argv)
    config = configuration.load([args.config], overrides)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    train, evaluated = features(config, args.most)
    about = {"data": args.name, "images": len(train.y), "evaluated": len(evaluated.y)}
    about |= {"features": "frozen features" if config.model.has_weights else "pixels"}
    before = json.loads(args.json.read_text())["rows"] if args.json and args.json.exists() else []
    rows = {_key(row): row for row in before}
    for row in trained(config, train, seeds) if args.recipe else judged(train, evaluated, seeds):
        print(row, file=sys.stderr, flush=True)
        rows[_key(row)] = row
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(
                json.dumps({**about, **environment(), "rows": [*rows.values()]}, indent=1) + "\n"
            )
    for part in ("first", "next", "recipe"):
        print(label_choices.table([{**about, "rows": [*rows.values()]}], part))
    return [*rows.values()]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("part", "labels", "choice", "seed"))


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
