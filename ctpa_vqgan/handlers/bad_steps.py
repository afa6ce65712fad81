"""Keep what is needed to find out why numbers are not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.handlers.checkpoints import Checkpoints
from ctpa_vqgan.handlers.tensorboard import TensorBoardLog
from ctpa_vqgan.sealed import save_sealed

NAME = "bad_step_{:09d}.pt"


class BadSteps:
    """Show skipped steps in TensorBoard, and leave a dump of the one that ends the run.

    The dump holds the batch and all that a checkpoint holds, as it was before that step; ``python -m ctpa_vqgan
    replay`` does the step again and says where the first bad number comes from.

    Args:
        folder: where ``bad_step_<iteration>.pt`` goes.
        checkpoints: of the same trainer.
        log: gets the number of skipped steps as ``data/skipped_steps``.
    """

    def __init__(self, folder: str | Path, checkpoints: Checkpoints, log: TensorBoardLog | None = None) -> None:
        self.folder, self.checkpoints, self.log = Path(folder), checkpoints, log

    def attach(self, engine: Engine) -> None:
        """Watch this trainer."""
        engine.add_event_handler(TrainerEvents.STEP_SKIPPED, self._skipped)

    def _skipped(self, engine: Engine) -> None:
        if self.log is not None:
            self.log.add_scalar("data/skipped_steps", engine.skipped_steps, engine.state.iteration)
        if engine.bad_in_a_row < engine.max_bad_steps:
            return
        path = self.folder / NAME.format(engine.state.iteration)
        batch = {name: value for name, value in engine.state.batch.items() if name != "unreadable"}
        batch = _joined(ranks.to_main(batch))
        try:
            if ranks.is_main():
                save_sealed({**self.checkpoints.content(engine), "batch": batch}, path, finite=False)
            look = f"to look into it, the same command with replay instead of train and --dump {path}"
        except UserError as error:
            look = f"there is no dump of it: {error}"
        raise BadNumbers(
            f"iteration {engine.state.iteration}: {engine.bad_in_a_row} steps in a row with numbers that are not "
            "finite; go on with a lower g_learning_rate and allow_changed=[g_learning_rate], or with precision=float32 "
            f"and allow_changed=[precision]; {look}"
        )


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole batch of which ranks have parts."""
    return {
        name: torch.cat([part[name] for part in parts])
        if isinstance(value, torch.Tensor)
        else [entry for part in parts for entry in part[name]]
        for name, value in parts[0].items()
    }
