"""What ranks tell each other without a process group: through the store in which torchrun brings them together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import Any

POLL_SECONDS = 0.2
DONE, REFUSED, FAILED = (f"ctpa_vqgan/{word}" for word in ("done", "refused", "failed"))


def wait_for_ranks(refused: bool = False) -> bool:
    """Wait, without a limit, until every rank that torchrun started is done or has failed; at once without torchrun.

    As soon as one rank ends with an exit code other than 0, torchrun ends all others: a rank that has refused a volume
    would cost the others their cases. So every rank calls this as the last step of its work, and all end with the same
    code. All of them wait, since the store lives with the first machine's torchrun, which leaves soon after its last
    rank.

    Args:
        refused: whether this rank left something out.

    Returns:
        Whether one of them did.
    """
    if (store := _store()) is None:
        return refused
    number = int(os.environ["WORLD_SIZE"])
    try:
        store.add(REFUSED, int(refused))
        done = store.add(DONE, 1)
        while done + store.add(FAILED, 0) < number:
            time.sleep(POLL_SECONDS)
            done = store.add(DONE, 0)
        return store.add(REFUSED, 0) > 0
    except RuntimeError:  # torchrun has gone, and with it all that there was to wait for
        return refused


def has_failed() -> None:
    """Tell the others that this rank will not be done: torchrun tells those of its own machine only."""
    with contextlib.suppress(Exception):
        if (store := _store()) is not None:
            store.add(FAILED, 1)


def is_first_to_say(text: str) -> bool:
    """Whether no other rank has said this: a wrong path is an error of all of them, and one line."""
    try:
        if (store := _store()) is None:
            return True
        return store.add(f"ctpa_vqgan/said/{hashlib.sha256(text.encode()).hexdigest()}", 1) == 1
    except Exception:  # torchrun may be gone, for the same reason perhaps; an error is never swallowed
        return True


def _store() -> Any:
    """torchrun's store; None in a process alone, or where something else set the variables."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    from torch.distributed import rendezvous

    return next(iter(rendezvous("env://")))[0]
