"""How work ends that goes on past files which must be refused."""

from __future__ import annotations

from pathlib import Path

from ctpa_vqgan.errors import Stopped
from ctpa_vqgan.progress import say
from ctpa_vqgan.rendezvous import wait_for_ranks

REFUSED = 3  # exit code: done, but for files that were refused


def end(num_refused: int, num_cases: int, report: Path, what: str = "volumes") -> None:
    """The last step: wait until every rank is done, and tell what this one left out.

    Args:
        num_refused: files that were refused.
        num_cases: files that there were to do, the refused ones too.
        report: where the reasons stand.
        what: is in the files.

    Raises:
        Stopped: with exit code 3, if something was left out, by this rank or another.
    """
    message = f"{num_refused} of {num_cases} {what} were left out, see {report}"
    if num_refused:
        say(message, every_rank=True)
    if wait_for_ranks(num_refused > 0):
        raise Stopped(REFUSED, message if num_refused else f"another rank left out {what}")
