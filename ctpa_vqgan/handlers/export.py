"""Leave the weights that inference needs, and load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Engine, Events

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.files import remove_leftovers, write_whole
from ctpa_vqgan.networks.quantizers import TRAINING_STATE
from ctpa_vqgan.progress import say
from ctpa_vqgan.sealed import check_seal, load_sealed, not_finite, save_sealed, seal_of


class ModelExport:
    """Leave ``model.pt`` (plain inference weights), its SHA-256 and ``model.yaml`` (how to build and use them).

    After every epoch, so that a run stopped early leaves a usable network too. A disk that does not take them costs a
    line, and an error only at the end of the run. Of ranks that train together rank 0 alone writes.

    Args:
        folder: where they go.
        network: whose weights are taken, usually the moving average; it describes itself by ``network.config``.
        knobs: further flat knobs for ``model.yaml``, such as ``hu_window`` and ``patch_size``; None leaves one out.
    """

    def __init__(self, folder: str | Path, network: torch.nn.Module, knobs: Mapping[str, Any]) -> None:
        self.folder, self.network, self.knobs = Path(folder), network, dict(knobs)
        self.failure: UserError | None = None

    def attach(self, engine: Engine) -> None:
        """Write after every epoch; for a run that was finished before, what is not there."""
        if not ranks.is_main():
            return
        engine.add_event_handler(TrainerEvents.RESUMED, lambda engine: remove_leftovers(self.folder))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._complain)
        engine.add_event_handler(TrainerEvents.NOTHING_LEFT, self._complete)

    def save(self) -> None:
        """Write all three.

        Raises:
            BadNumbers: if the weights are not finite; older ones stay.
            UserError: if the disk does not take them.
        """
        save_sealed(inference_weights(self.network), self.folder / "model.pt")
        knobs = {name: value for name, value in self.knobs.items() if value is not None}
        overlay = {"network_def": self.network.config, **knobs}
        text = "# The network of model.pt; merge it after train.yaml or inference.yaml.\n"
        write_whole(self.folder / "model.yaml", text + yaml.safe_dump(plain(overlay), sort_keys=False))

    def _epoch(self, engine: Engine) -> None:
        self.failure = None
        try:
            self.save()
        except BadNumbers:
            raise
        except UserError as error:
            self.failure = error
            say(f"{error}; training goes on, the weights are written after the next epoch")

    def _complain(self, engine: Engine) -> None:
        if self.failure is not None:
            raise UserError(f"training is done, but its weights are not: {self.failure}; the same command goes on")

    def _complete(self, engine: Engine) -> None:
        if not (self.folder / "model.yaml").is_file() or not self._is_there():
            self.save()

    def _is_there(self) -> bool:
        try:
            found = load_sealed(self.folder / "model.pt")
        except (UserError, OSError):
            return False
        wanted = inference_weights(self.network)
        return found.keys() == wanted.keys() and all(torch.equal(found[k], v.cpu()) for k, v in wanted.items())


def inference_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict without what only training needs; it loads with ``strict=True`` all the same."""
    state = network.state_dict()
    return {key: value for key, value in state.items() if key.rsplit(".", 1)[-1] not in TRAINING_STATE}


def load_weights(network: torch.nn.Module, path: str | Path) -> torch.nn.Module:
    """Load inference weights into a network; where their SHA-256 lies beside them, it has to fit.

    Raises:
        UserError: if the file is absent, damaged, made for another network, or holds numbers that are not finite.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weights; train first, or give the model.pt of a run as ckpt_path (--checkpoint)"
        )
    if seal_of(path).is_file():
        check_seal(path)
    else:
        say(f"{path}: has no {seal_of(path).name} beside it, so damage would not show")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: damaged, or no plain weights file ({type(error).__name__}); copy it again") from error
    if bad := list(not_finite(weights)):
        raise UserError(f"{path}: {bad[0]} holds numbers that are not finite; take the weights of another run")
    try:
        network.load_state_dict(weights, strict=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: these weights do not fit network_def ({type(error).__name__}: {reason}); "
            "merge the model.yaml that lies beside them (--overlay)"
        ) from error
    return network


def plain(value: Any) -> Any:
    """Lists, dicts, numbers and strings only."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
