"""The learning rate as a function of the step and of the settings of now."""

from __future__ import annotations

from typing import Any

from monai.optimizers import WarmupCosineSchedule


class WarmupCosine(WarmupCosineSchedule):
    """MONAI's linear warm-up and cosine decay, of which only the step is saved.

    A stopped run that goes on with more epochs or another rate follows the new settings from its step on; MONAI's and
    PyTorch's own state would bring back the old ones, and let the cosine rise again past its end.
    """

    def state_dict(self) -> dict[str, Any]:
        """The step."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step and set the rate that belongs to it; load the optimizer's state first."""
        self.last_epoch = state_dict["last_epoch"]
        for group, base, rate in zip(self.optimizer.param_groups, self.base_lrs, self.get_lr()):
            group["initial_lr"], group["lr"] = base, rate
        self._last_lr = self.get_lr()
