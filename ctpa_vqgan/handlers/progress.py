"""Show how far a run is and when it will end."""

from __future__ import annotations

from ignite.engine import Engine, Events
from tqdm import tqdm

from ctpa_vqgan.progress import progress_bar


class Progress:
    """A bar over the iterations of an engine with the time left; a VQGANTrainer's shows its loss too.

    Args:
        label: in front of the bar.
    """

    def __init__(self, label: str = "training") -> None:
        self.label = label
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Follow this engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Engine) -> None:
        length = engine.state.epoch_length
        total = engine.state.max_epochs * length if length else None
        self.bar = progress_bar(total, self.label, initial=engine.state.iteration)

    def _advance(self, engine: Engine) -> None:
        if terms := getattr(engine, "terms", None):
            self.bar.set_postfix({"epoch": engine.state.epoch, "loss": f"{terms['loss']:.4f}"}, refresh=False)
        self.bar.update()

    def _close(self, engine: Engine) -> None:
        if self.bar is not None:  # a run that had nothing but the end of an epoch left
            self.bar.close()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        if self.bar is not None:  # a handler before this one may have failed at the start
            self.bar.close()
        raise error
