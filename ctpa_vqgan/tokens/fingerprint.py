"""Which network made these codes: to any other one they are noise."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def network_fingerprint(network: torch.nn.Module) -> str:
    """SHA-256 of a network's ``config`` and inference weights.

    The same on every device, in any memory format, in training or evaluation mode. What only training needs (moving
    averages, reservoir) does not count; a changed weight, codebook, type or option does.

    Args:
        network: a :class:`~ctpa_vqgan.networks.VQGAN` or another one with a ``config`` of plain values.

    Returns:
        64 hexadecimal digits.
    """
    import torch  # here, because code files are read without it

    from ctpa_vqgan.networks.quantizers import TRAINING_STATE

    digest = hashlib.sha256(_canonical(network.config))
    for name, values in sorted(network.state_dict().items()):
        if name.rsplit(".", 1)[-1] in TRAINING_STATE:
            continue
        # each length is told before its bytes, so that no two networks can run into the same stream
        digest.update(_canonical([name, str(values.dtype), list(values.shape)]))
        plain = values.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(plain.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return b"%d:%s" % (len(text), text)
