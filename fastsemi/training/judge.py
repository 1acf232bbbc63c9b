"""Evaluating the networks of a stage in training, and keeping the best of them where a run asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from fastsemi.common.errors import Interrupted
from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import Views
from fastsemi.training.evaluate import Accuracy, evaluate
from fastsemi.training.plain_state import plain_state
from fastsemi.training.selection import Choice, Selection


class Judge:
    """Evaluates the networks of a stage.

    Args:
        stage: Whose networks.
        data: The run's data.
        views: Brings images to the device.
        precision: Number format.
        batch: Images per batch of a process.
        selection: Keeps the best of them; None where the stage leaves the last.
        after_pass: As of `evaluate`.
        waiting: Gives what is entered while networks are evaluated, as `Stop.waiting`: that may be given up
            anywhere, unlike the writing of the best.
    """

    def __init__(
        self,
        stage: Stage,
        data: Data,
        views: Views,
        precision: Precision,
        batch: int,
        selection: Selection | None,
        after_pass: Callable[[], None],
        waiting: Callable[[], AbstractContextManager[None]],
    ):
        self._stage, self._data, self._views, self._precision = stage, data, views, precision
        self._batch, self._selection = batch, selection
        self._after_pass, self._waiting = after_pass, waiting
        self.scores: dict[str, float] = {}
        """Of the last evaluation, in percent, by network and kind."""
        self.owes = False
        """Whether a signal came before the end of an evaluation, which is to be made up for."""

    @property
    def choice(self) -> Choice | None:
        """The best network so far; None where the stage leaves the last."""
        return self._selection.choice if self._selection else None

    def judge(self, step: int, *, final: bool = False) -> dict[str, float]:
        """Evaluate the networks as they are after some steps; `final`: the stage ends with them.

        Returns:
            Figures for the log, of images that only choose too; none of a stage without classifiers, or where
            nothing is evaluated.

        Raises:
            Interrupted: What `after_pass` or `waiting` raised; the evaluation is owed.
        """
        if not self._data.config.evaluates:
            self.scores, self.owes = {}, False  # of a checkpoint that was evaluated
            return {}
        if not (models := self._stage.eval_models()):
            return {}
        try:
            with self._waiting():
                scores = self._accuracies(models, self._data.val)
                deciding, held_out = scores, {}
                if self._selection and self._data.selection is not self._data.val:
                    deciding = self._accuracies(models, self._data.selection)
                    held_out = {_key(name, "validation"): deciding[name].top1 for name in deciding}
        except Interrupted:
            self.owes = True
            raise
        self.owes = False
        self.scores = {
            _key(name, kind): getattr(accuracy, kind)
            for name, accuracy in scores.items()
            for kind in ("top1", "top5", "balanced")
        }
        if self._selection:
            self._selection.offer(step, scores, models, self._stage.result(), deciding, final=final)
        return {**self.scores, **held_out}

    def result(self, step: int) -> dict[str, Tensor]:
        """The state dict of what the stage leaves after some steps; all processes must ask for it."""
        if self._selection is None or self.choice is None:
            return plain_state(self._stage.result())
        if self.choice.step == step:  # it is at hand
            return plain_state(self._stage.eval_models()[self.choice.network])
        return self._selection.tensors()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        best = self._selection.state() if self._selection else None
        return {"scores": self.scores, "owes_evaluation": self.owes, "best": best}

    def restore(self, state: Mapping[str, Any], *, same_images: bool) -> None:
        """Take back what `state` gave; the best network only if the same images are evaluated as then."""
        self.scores, self.owes = state["scores"], state.get("owes_evaluation", False)
        if self._selection and same_images:
            self._selection.restore(state["best"])

    def _accuracies(self, models: Mapping[str, nn.Module], images: ImageSet) -> dict[str, Accuracy]:
        return evaluate(
            models,
            self._data,
            self._views,
            self._precision,
            batch=self._batch,
            images=images,
            after_pass=self._after_pass,
        )


def _key(network: str, what: str) -> str:
    """What a figure of a network is called; that of a stage's only one has no prefix."""
    return what if network == "model" else f"{network}_{what}"
