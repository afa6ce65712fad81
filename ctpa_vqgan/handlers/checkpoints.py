"""Keep a run's state on disk, so that a stopped run goes on as if it had not been stopped."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.files import Claim, remove_leftovers, write_whole
from ctpa_vqgan.handlers.export import plain
from ctpa_vqgan.progress import say
from ctpa_vqgan.sealed import Damaged, Unsealed, load_sealed, save_sealed, seal_of

PATTERN, NAME = "checkpoint_{:09d}.pt", re.compile(r"checkpoint_\d{9}\.pt")
POSITION = ("trainer", "random", "knobs", "best")


class Checkpoints:
    """Save all that a run is, by iterations, by the clock and after each epoch, and resume from the newest good file.

    Attach it last: its file of an epoch says that validation, export and the like of that epoch are done. Files are
    written by :func:`~ctpa_vqgan.sealed.save_sealed`; one that the disk does not take costs a line, and training goes
    on to the next. A damaged file is set aside, and the one before it is taken; where there is none, the run does not
    begin anew by itself. Two runs in one folder are refused. Of ranks that train together rank 0 alone writes and
    reads; as the state says nothing of their number, any number of them goes on.

    Args:
        folder: where ``checkpoint_<iteration>.pt`` files go.
        state: objects with ``state_dict`` and ``load_state_dict``, by name; the trainer's own state goes along.
        save_interval: iterations between checkpoints; 0 saves by the clock and after epochs only.
        save_minutes: a checkpoint also after so many minutes; 0 for none.
        keep_last: how many of the newest files stay.
        keep_best: how many of those with the best validation stay too.
        validator: the evaluator whose key metric says what is best; larger is better.
        knobs: settings that a resumed run must share; one that differs is refused by name.
        allow_changed: names of those that may differ all the same.

    Raises:
        UserError: if ``keep_last`` is less than 1.
    """

    def __init__(
        self,
        folder: str | Path,
        state: Mapping[str, Any],
        save_interval: int = 0,
        save_minutes: float = 0,
        keep_last: int = 2,
        keep_best: int = 0,
        validator: Engine | None = None,
        knobs: Mapping[str, Any] | None = None,
        allow_changed: Sequence[str] = (),
    ) -> None:
        if keep_last < 1:
            raise UserError(f"keep_last: expected at least 1, found {keep_last}")
        self.folder, self.state, self.knobs = Path(folder), dict(state), plain(knobs or {})
        self.allow_changed = set(allow_changed)
        if unknown := self.allow_changed - self.knobs.keys():
            raise UserError(f"allow_changed: {min(unknown)} is none of the knobs that a resumed run must share")
        self.save_interval, self.save_minutes = save_interval, save_minutes
        self.keep_last, self.keep_best, self.validator = keep_last, keep_best, validator
        self.best: list[list[float]] = []  # [score, iteration], best first
        self.failure: UserError | None = None
        self._claim: Claim | None = None
        self._saved: tuple[int, bool] | None = None
        self._saved_at = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Resume this trainer before it starts, and save while it runs."""
        engine.add_event_handler(TrainerEvents.RESUMING, self.resume)
        engine.add_event_handler(TrainerEvents.RESUMED, self._try_disk)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._complain)
        engine.add_event_handler(TrainerEvents.ENDED, self._end)

    # -- saving --------------------------------------------------------------------------------------------------

    def save(self, engine: Engine) -> bool:
        """Write the state at the engine's iteration, then remove what is too old; a full disk costs a line.

        Returns:
            Whether the state of this iteration is on disk; rank 0 alone knows, others take it for granted.

        Raises:
            BadNumbers: if a tensor holds a number that is not finite; older files stay.
        """
        due = bool(getattr(engine, "epoch_end_due", False))
        if self._saved == (engine.state.iteration, due) or not ranks.is_main():
            return True
        path = self.folder / PATTERN.format(engine.state.iteration)
        self._saved_at = time.monotonic()
        try:
            save_sealed(self.content(engine), path)
        except BadNumbers:
            raise
        except UserError as error:
            self.failure = error
            say(f"{error}; training goes on, the next checkpoint is tried in its turn")
            return False
        self.failure, self._saved = None, (engine.state.iteration, due)
        best = {PATTERN.format(int(iteration)) for _, iteration in self.best}
        # files of later iterations are such that could not be read when the run went on
        before = [old for old in self.files() if old.name < path.name]
        for old in before[: len(before) - self.keep_last + 1]:
            if old.name not in best:
                old.unlink(missing_ok=True)
                seal_of(old).unlink(missing_ok=True)
        return True

    def content(self, engine: Engine) -> dict[str, Any]:
        """All that a checkpoint holds."""
        here = {"trainer": engine.state_dict(), "random": _random_state(), "knobs": self.knobs, "best": self.best}
        return {**here, **{name: item.state_dict() for name, item in self.state.items()}}

    def files(self) -> list[Path]:
        """Checkpoints in the folder, oldest first; files of similar names are not ours."""
        return sorted(path for path in self.folder.glob("checkpoint_*.pt") if NAME.fullmatch(path.name))

    def _iteration(self, engine: Engine) -> None:
        by_number = self.save_interval and engine.state.iteration % self.save_interval == 0
        by_clock = self.save_minutes and time.monotonic() - self._saved_at >= 60 * self.save_minutes
        if (by_number or by_clock) and not getattr(engine, "epoch_end_due", False):
            self.save(engine)  # the end of an epoch has its own

    def _epoch(self, engine: Engine) -> None:
        engine.epoch_end_due = False
        score = self._score(engine)
        if score is not None and self.keep_best:
            others = [entry for entry in self.best if entry[1] != engine.state.iteration]
            ranked = sorted([*others, [score, engine.state.iteration]], key=lambda entry: (-entry[0], entry[1]))
            self.best = ranked[: self.keep_best]
        self.save(engine)

    def _score(self, engine: Engine) -> float | None:
        """The key metric of this epoch's validation, if there was one."""
        if self.validator is None or self.validator.state.epoch != engine.state.epoch:
            return None
        score = self.validator.state.metrics.get(self.validator.state.key_metric_name)
        return float(score) if score is not None and score == score else None

    def _complain(self, engine: Engine) -> None:
        if self.failure is not None:
            raise UserError(f"training is done, but not saved: {self.failure}; the same command goes on") from None

    def _end(self, engine: Engine) -> None:
        if self._claim is not None:
            self._claim.release()

    def _try_disk(self, engine: Engine) -> None:
        """Refuse a folder that never takes a byte now, not after days."""

        def probe() -> None:
            write_whole(self.folder / "probe", "").unlink()

        ranks.from_main(probe)

    # -- resuming ------------------------------------------------------------------------------------------------

    def resume(self, engine: Engine) -> None:
        """Load the newest good checkpoint, if there is one, and let the trainer go on from there.

        Raises:
            UserError: if there are files but no good one, it does not fit this run, or another process is at work in
                the folder.
        """
        found = ranks.from_main(self._newest)
        self._refuse_others(engine)
        if found is None:
            return
        content, path = found
        self.restore(engine, content, path)
        done, total = engine.state.iteration, engine.state.max_epochs * engine.state.epoch_length
        self._saved = done, bool(getattr(engine, "epoch_end_due", False))
        say(f"resumed at iteration {done} of {total} from {path.name}")

    def _refuse_others(self, engine: Engine) -> None:
        """Refuse ranks that would not train the same: other words on one machine, or another list of cases there."""
        lengths = {"iterations per epoch": engine.state.epoch_length, "max_epochs": engine.state.max_epochs}
        first, *others = ranks.gather(self.knobs | lengths)
        for number, told in enumerate(others, start=1):
            if differing := _differences(first, told, set()):
                raise UserError(f"rank {number}: expected to train as rank 0 with {differing[0]}; give all the same")

    def _newest(self) -> tuple[dict[str, Any], Path] | None:
        """The newest good checkpoint and its file, once the folder is this run's; None where there is no file."""
        self._claim = Claim(self.folder)
        remove_leftovers(self.folder)
        for path in reversed(self.files()):
            try:
                return load_sealed(path), path
            except Damaged as error:
                say(f"{error}; it is set aside, trying the checkpoint before it")
                _set_aside(path)
            except Unsealed as error:
                say(f"{error}; trying the checkpoint before it")
            except OSError as error:
                say(f"{path}: cannot be read now ({error.strerror or error}); trying the checkpoint before it")
        if found := [*self.files(), *self.folder.glob("checkpoint_*.pt.damaged")]:
            raise UserError(
                f"{self.folder}: expected a checkpoint to go on from, found none that is good ({found[-1].name}, "
                "see above); mend that, or choose a new output_dir to train from the beginning"
            )
        return None

    def restore(self, engine: Engine, content: Mapping[str, Any], path: Path) -> None:
        """Bring engine and objects to a state.

        Args:
            engine: the trainer.
            content: of :meth:`content`.
            path: where that comes from, for messages.

        Raises:
            UserError: if it was made by other networks or settings; names what differs.
        """
        ways_out = "or choose a new output_dir (init_path takes model.pt)"
        if missing := [name for name in (*POSITION, *self.state) if name not in content]:
            raise UserError(f"{path}: holds no {missing[0]}: made by another version; go on with that one, {ways_out}")
        if changed := _differences(content["knobs"], self.knobs, self.allow_changed):
            raise UserError(
                f"{path}: this run was begun with {'; '.join(changed)}; restore that, name it in allow_changed if you "
                f"mean it, {ways_out}"
            )
        before, now = content["trainer"]["epoch_length"], engine.state.epoch_length
        if before != now:  # the samples of the iterations done would be others
            raise UserError(
                f"{path}: made with {before} iterations per epoch, this run has {now}: the data set, num_samples, "
                f"stride or batch_size changed; restore them, {ways_out}"
            )
        try:
            for name, item in self.state.items():
                item.load_state_dict(content[name])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: does not fit this run ({type(error).__name__}: {reason}); "
                f"train with the settings it was made with, {ways_out}"
            ) from error
        engine.load_state_dict(content["trainer"])
        self.best = [list(entry) for entry in content["best"][: self.keep_best]]
        _set_random_state(content["random"])


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], allowed: Set[str]) -> list[str]:
    """Settings that changed; one that only one of the two knows says nothing."""
    shared = (name for name in before if name in now and name not in allowed)
    return [f"{name}={before[name]}, now {now[name]}" for name in shared if before[name] != now[name]]


def _random_state() -> list[torch.Tensor]:
    """Of PyTorch's global generators: the package draws nothing from them, a loss or a handler of the user may."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_state(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])


def _set_aside(path: Path) -> None:
    """Rename a damaged file and its checksum: they may be of use to someone, but not to this run."""
    aside = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(OSError):
        path.replace(aside)
        seal_of(path).replace(seal_of(aside))
