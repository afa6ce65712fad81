"""Keep a run's state on disk, so that a stopped run goes on, and leave inference weights when it is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Engine, Events

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import whole, write_whole
from ctpa_vqgan.networks.quantizers import TRAINING_STATE

PATTERN = "checkpoint_{:09d}.pt"

logger = logging.getLogger(__name__)


def save_atomically(content: Any, path: Path) -> None:
    """``torch.save`` under a temporary name, flushed to disk, then renamed: the file is whole or absent.

    Raises:
        UserError: if the disk does not take it.
    """
    try:
        with whole(path) as temporary:
            torch.save(content, temporary)
    except RuntimeError as error:  # torch's zip writer reports a full disk so
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: could not be written ({reason}); free some space, older files are intact") from error


class Checkpoints:
    """Save everything that a run is, every so many iterations and after each epoch, and resume from the newest.

    Args:
        folder: where ``checkpoint_<iteration>.pt`` files go.
        state: objects with ``state_dict`` and ``load_state_dict``, by name.
        save_interval: iterations between checkpoints; 0 saves after epochs only.
        keep_last: older files are removed after a newer one is written.
    """

    def __init__(
        self, folder: str | Path, state: Mapping[str, Any], save_interval: int = 0, keep_last: int = 2
    ) -> None:
        if keep_last < 1:
            raise UserError(f"keep_last: expected at least 1, found {keep_last}")
        self.folder, self.state, self.keep_last = Path(folder), dict(state), keep_last
        self.save_interval = save_interval

    def attach(self, engine: Engine) -> None:
        """Resume this trainer when it starts, and save while it runs."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        if self.save_interval:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.save_interval), self.save)

    def save(self, engine: Engine) -> None:
        """Write the state at the engine's iteration, then remove what is too old."""
        path = self.folder / PATTERN.format(engine.state.iteration)
        content = {name: item.state_dict() for name, item in self.state.items()}
        position = {"iteration": engine.state.iteration, "epoch_length": engine.state.epoch_length}
        save_atomically({**position, **content}, path)
        for old in self.files()[: -self.keep_last]:
            old.unlink()

    def files(self) -> list[Path]:
        """Checkpoints in the folder, oldest first."""
        return sorted(self.folder.glob(PATTERN.replace("{:09d}", "*")))

    def resume(self, trainer: Any) -> None:
        """Load the newest checkpoint, if there is one, and let the trainer go on from there.

        Raises:
            UserError: if the file is damaged or does not fit the networks of this run.
        """
        if not self.files():
            return
        path = self.files()[-1]
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(
                f"{path}: a damaged checkpoint ({type(error).__name__}); delete it to go on from the one before"
            ) from error
        try:
            for name, item in self.state.items():
                item.load_state_dict(content[name])
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{path}: does not fit this run ({type(error).__name__}: {reason}); "
                "train with the settings it was made with, or choose a new output_dir"
            ) from error
        before, now = content["epoch_length"], trainer.state.epoch_length
        if before != now:  # the samples of the iterations done would be others
            raise UserError(
                f"{path}: made with {before} iterations per epoch, this run has {now}: the data set, num_samples, "
                "stride or batch_size changed; restore them, or choose a new output_dir (init_path takes model.pt)"
            )
        trainer.resume_from(content["iteration"])
        total = trainer.state.max_epochs * trainer.state.epoch_length
        logger.info("resumed at iteration %d of %d from %s", content["iteration"], total, path.name)


class ModelExport:
    """Leave ``model.pt`` (plain inference weights) and ``model.yaml`` (how to build and use them) in a folder.

    Args:
        folder: where they go.
        network: whose weights are taken, usually the moving average; it describes itself by ``network.config``.
        knobs: further flat knobs for ``model.yaml``, such as ``hu_window`` and ``patch_size``.
    """

    def __init__(self, folder: str | Path, network: torch.nn.Module, knobs: Mapping[str, Any]) -> None:
        self.folder, self.network, self.knobs = Path(folder), network, dict(knobs)

    def attach(self, engine: Engine) -> None:
        """Write after every epoch, so that a run stopped early leaves a usable network too.

        At the end again: a run that stopped between its last checkpoint and this handler has nothing else left to do.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self.save)

    def save(self, engine: Engine | None = None) -> None:
        """Write both files."""
        save_atomically(inference_weights(self.network), self.folder / "model.pt")
        overlay = {"network_def": self.network.config, **self.knobs}
        text = "# The network of model.pt; merge it after train.yaml or inference.yaml.\n"
        write_whole(self.folder / "model.yaml", text + yaml.safe_dump(_plain(overlay), sort_keys=False))


def inference_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict without what only training needs; it loads with ``strict=True`` all the same."""
    state = network.state_dict()
    return {key: value for key, value in state.items() if key.rsplit(".", 1)[-1] not in TRAINING_STATE}


def load_weights(network: torch.nn.Module, path: str | Path) -> torch.nn.Module:
    """Load inference weights into a network.

    Raises:
        UserError: if the file is absent, damaged, or made for another network.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weights; train first, or give the model.pt of a run as ckpt_path (--checkpoint)"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: damaged, or no plain weights file ({type(error).__name__}); copy it again") from error
    try:
        network.load_state_dict(weights, strict=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: these weights do not fit network_def ({type(error).__name__}: {reason}); "
            "merge the model.yaml that lies beside them (--overlay)"
        ) from error
    return network


def _plain(value: Any) -> Any:
    """Lists, dicts, numbers and strings only, for YAML."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
