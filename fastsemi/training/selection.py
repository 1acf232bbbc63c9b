"""Which network of a stage is its result: of all that were evaluated, the best one, or the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastsemi.parallel import processes
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.evaluate import Accuracy
from fastsemi.training.plain_state import plain_state

EVALUATED = "evaluation images"  # what a fingerprint calls them: choices of other images are not compared


@dataclass(frozen=True)
class Choice:
    """A network that was evaluated."""

    network: str
    """As `Stage.eval_models` calls it."""
    step: int
    top1: float
    """Of the evaluation images, in percent, as the next two."""
    top5: float | None
    balanced: float | None
    selection_top1: float
    """Of the images that it was chosen on, in percent; the evaluation images where no others are held out."""
    selection_loss: float
    """Cross-entropy of the same."""


class Selection:
    """Keeps the best of the networks that a stage evaluates, for `train.select: best`.

    The tensors lie in a file whose name has the step, so that a run that goes on from an earlier checkpoint
    finds what that checkpoint speaks of. What counts is the top-1 of the images that choose, then their loss.
    Of networks that are equal in both the earlier one stays, and of one evaluation the stage's own result. At
    the end of the stage its own result is taken where no other has a higher top-1, whatever their losses: of
    ten images many networks have all right, and the loss favours one that was not trained on soft labels.

    Args:
        folder: Of the run's checkpoints.
        stage: Name of the stage.
    """

    def __init__(self, folder: Path, stage: str):
        self._folder, self._stage = folder, stage
        self.choice: Choice | None = None
        self._former: set[Path] = set()  # files that the checkpoint before speaks of

    def offer(
        self,
        step: int,
        scores: Mapping[str, Accuracy],
        models: Mapping[str, nn.Module],
        result: nn.Module,
        deciding: Mapping[str, Accuracy] | None = None,
        *,
        final: bool = False,
    ) -> None:
        """Look at an evaluation; all processes must take part.

        Args:
            step: Steps done.
            scores: Of the evaluation images by network, the same in all processes.
            models: The networks.
            result: The one that the stage leaves if nothing is chosen; it wins where networks are equal.
            deciding: Of the images that choose, if they are others.
            final: Whether the stage ends with these networks.
        """
        by = scores if deciding is None else deciding
        order = sorted(models, key=lambda name: models[name] is not result)
        name = max(order, key=lambda name: _rank(by[name].top1, by[name].loss))
        before, own = self.choice, order[0]
        best = by[name].top1 if before is None else max(by[name].top1, before.selection_top1)
        at_end = final and models[own] is result and math.isfinite(by[own].loss)
        if at_end and by[own].top1 >= best:
            name = own
        elif before and _rank(by[name].top1, by[name].loss) <= _rank(
            before.selection_top1, before.selection_loss
        ):
            return
        score, chosen = scores[name], by[name]
        self.choice = Choice(name, step, score.top1, score.top5, score.balanced, chosen.top1, chosen.loss)
        state = plain_state(models[name])
        if processes.is_main():
            checkpoint_file.save({"model": state, "choice": asdict(self.choice)}, self._path(self.choice))

    def tensors(self) -> dict[str, Tensor]:
        """The state dict of the best network; ask only where there is a choice."""
        assert self.choice is not None
        return checkpoint_file.load(self._path(self.choice))["model"]

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds of it; files of choices that no checkpoint speaks of any more go."""
        if processes.is_main():
            kept = self._path(self.choice) if self.choice else None
            for path in self._folder.glob(f"{self._stage}_best-*.pt"):
                if path != kept and path not in self._former:
                    path.unlink(missing_ok=True)
            self._former = {kept} if kept else set()
        return asdict(self.choice) if self.choice else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` gave, also that of a version that noted the top-1 alone."""
        if state is None:
            self.choice = None
            return
        before = {"top5": None, "balanced": None, "selection_loss": math.inf}
        self.choice = Choice(**{**before, "selection_top1": state["top1"], **state})

    def _path(self, choice: Choice) -> Path:
        return self._folder / f"{self._stage}_best-{choice.step:09d}.pt"


def _rank(top1: float, loss: float) -> tuple[float, float]:
    """What a better network has more of."""
    return top1, -loss if math.isfinite(loss) else -math.inf
