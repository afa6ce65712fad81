"""Show how far a run is and when it will end."""

from __future__ import annotations

from ignite.engine import Engine, Events
from tqdm import tqdm


class Progress:
    """A bar over the iterations of the whole run, with loss and time left; one line per epoch where it is no terminal.

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
        # not a terminal: a line a minute is enough for a log file
        self.bar = tqdm(total=total, initial=engine.state.iteration, desc=self.label, dynamic_ncols=True, mininterval=1)
        if not self.bar.fp.isatty():
            self.bar.mininterval = 30

    def _advance(self, engine: Engine) -> None:
        output = engine.state.output
        if isinstance(output, dict) and "loss" in output:
            self.bar.set_postfix({"epoch": engine.state.epoch, "loss": f"{output['loss']:.4f}"}, refresh=False)
        self.bar.update()

    def _close(self, engine: Engine) -> None:
        self.bar.close()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self.bar.close()
        raise error
