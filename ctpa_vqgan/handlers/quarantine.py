"""Go on without files that break in the middle of a run, as long as they are few."""

from __future__ import annotations

import itertools
from typing import Any

from ignite.engine import Engine, Events

from ctpa_vqgan import ranks
from ctpa_vqgan.data.patches import GridPatches, RandomPatchDataset
from ctpa_vqgan.data.unreadable import Unreadable, case_key, from_texts
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers.tensorboard import TensorBoardLog
from ctpa_vqgan.progress import say


class Quarantine:
    """Name each training case that cannot be read once, count them, and stop when they are too many.

    The data set replaces the patches of such a case by those of others and says so inside the batch; this handler
    reads that in the main process. It belongs to the state of a checkpoint: a resumed run knows the bad cases from the
    start and draws the same patches.

    Args:
        dataset: of the trainer.
        max_share: share of the training cases that may be left out; beyond it the run stops. With the default of one
            in twenty, fewer than twenty cases tolerate none.
        log: gets the count as ``data/quarantined``.

    Raises:
        UserError: if ``max_share`` is no share.
    """

    def __init__(
        self, dataset: RandomPatchDataset | GridPatches, max_share: float = 0.05, log: TensorBoardLog | None = None
    ) -> None:
        if not 0 <= max_share <= 1:
            raise UserError(f"max_bad_share: expected a share between 0 and 1, found {max_share}")
        self.dataset, self.max_share, self.log = dataset, max_share, log
        self.cases: dict[str, Unreadable] = {}

    def attach(self, engine: Engine) -> None:
        """Watch the batches of this trainer; attach the checkpoints first, so that a resumed run knows its cases."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_STARTED, self._look)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._count)

    def state_dict(self) -> dict[str, Any]:
        """The cases left out so far."""
        return {"cases": [list(case) for case in self.cases.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Leave these cases out from now on; loader processes started later know them too."""
        paths = {case_key(case) for case in self.dataset.cases}
        for case in (Unreadable(*entry) for entry in state["cases"]):
            if case.path in paths:
                self.cases[case.path] = self.dataset.unreadable[case.path] = case

    def _begin(self, engine: Engine) -> None:
        if ranks.is_main() and (notice := self.dataset.notice()):
            print(notice, flush=True)
        if self.cases:
            say(f"still left out: {', '.join(self.cases)}")
        self._take(engine, self.dataset.unreadable.values())

    def _look(self, engine: Engine) -> None:
        found = list(from_texts(engine.state.batch.get("unreadable", ())))
        # each rank reads other files; all have to leave out the same ones
        self._take(engine, itertools.chain(*ranks.gather(found)) if ranks.anywhere(bool(found)) else ())

    def _take(self, engine: Engine, found: Any) -> None:
        for case in [case for case in found if case.path not in self.cases]:  # several loader processes may tell of it
            self.cases[case.path] = case
            share = f"{len(self.cases)} of {len(self.dataset.cases)} training cases"
            self._refuse_too_many(case, share)
            say(f"{case.message}; left out: {share}")
            self._count(engine)

    def _refuse_too_many(self, last: Unreadable, share: str) -> None:
        number, total = len(self.cases), len(self.dataset.cases)
        if number == total:
            raise UserError(f"{last.message}; no training case is left, {share} cannot be read")
        if number > self.max_share * total:
            raise UserError(
                f"{last.message}; with it {share} ({number / total:.1%}) cannot be read, more than max_bad_share "
                f"({self.max_share:.1%}): mend or remove them, or raise max_bad_share"
            )

    def _count(self, engine: Engine) -> None:
        if self.log is not None:
            self.log.add_scalar("data/quarantined", len(self.cases), engine.state.iteration)
