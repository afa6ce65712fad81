"""The processes that work together: which of them this is, and what they tell each other. One alone pays nothing.

A *rank* is one of the processes that torchrun starts; the ranks of a training form PyTorch's process group. What is
told goes over the CPU (gloo), whose connections end with the process at their other end: nobody waits for the dead.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ctpa_vqgan.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Shard(NamedTuple):
    """Part ``index`` (from 0) of ``count``."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls) -> Shard:
        """By the process group, or by torchrun's ``RANK`` and ``WORLD_SIZE``; the whole where neither is there."""
        if (distributed := _group()) is not None:
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @classmethod
    def of_group(cls) -> Shard:
        """By the process group alone: the ranks of a training."""
        return cls.of_this_process() if are_many() else cls()

    @classmethod
    def of(cls, text: str | None) -> Shard:
        """What ``--shard`` (the knob ``shard``) asks for, ``"i/n"`` counted from 1; torchrun's share for None.

        Raises:
            UserError: it is no such text, or torchrun's ranks share the cases already.
        """
        shard = cls.of_this_process()
        if text is None:
            return shard
        found = re.fullmatch(r"\s*(\d+)/(\d+)\s*", str(text))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard: expected part i/n counted from 1, such as 1/4, found {text!r}")
        if shard.count > 1:
            raise UserError(
                f"--shard: expected none under torchrun, whose {shard.count} processes share the cases by themselves, "
                f"found {text}; leave it out, or run without torchrun"
            )
        return cls(int(found[1]) - 1, int(found[2]))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def take(self, items: Sequence[T]) -> list[T]:
        """Every ``count``-th item."""
        return list(items[self.index :: self.count])

    def part(self, numbers: range) -> range:
        """A piece of consecutive numbers; pieces differ in length by one at most, the first are the longer ones."""
        length, longer = divmod(len(numbers), self.count)
        begin = self.index * length + min(self.index, longer)
        return numbers[begin : begin + length + (self.index < longer)]


class RankLost(UserError):
    """What is done together cannot be: another rank has ended."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what every rank has to do at the same time.

    Raises:
        RankLost: another rank has ended, or does not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not are_many():
            raise
        # without the place in the library's source, and its guesses after the first sentence
        reason = re.sub(r"^\[[^\]]*\] ", "", str(error).strip().splitlines()[0]).partition(". ")[0][:200]
        raise RankLost(
            f"another rank has ended or does not answer ({reason}); what it said itself is the cause, and the same "
            "command goes on"
        ) from error


def is_main() -> bool:
    """Whether this process speaks and writes for all: rank 0, or a process alone."""
    return Shard.of_this_process().index == 0


def are_many() -> bool:
    """Whether a process group of more than one rank is at work."""
    distributed = _group()
    return distributed is not None and distributed.get_world_size() > 1


def add(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the ranks, in place; every rank has to call it with the same shape and type."""
    if are_many():
        with together():
            _group().all_reduce(tensor)
    return tensor


def copy_of_main(tensor: torch.Tensor) -> torch.Tensor:
    """What rank 0 has, written over what this rank has; the same shape and type everywhere."""
    if are_many():
        with together():
            _group().broadcast(tensor, src=0)
    return tensor


def gather(value: T) -> list[T]:
    """What every rank gives, in their order; any Python object."""
    if not are_many():
        return [value]
    values: list[Any] = [None] * _group().get_world_size()
    with together():
        _group().all_gather_object(values, value)
    return values


def to_main(value: T) -> list[T]:
    """What every rank gives, in their order, on rank 0; on others their own only. Any Python object."""
    if not are_many():
        return [value]
    values: list[Any] | None = [None] * _group().get_world_size() if is_main() else None
    with together():
        _group().gather_object(value, values)
    return values or [value]


def anywhere(flag: bool) -> bool:
    """Whether it is so on one rank at least."""
    return any(gather_numbers(flag)[0])


def gather_numbers(*numbers: int) -> list[list[int]]:
    """A few whole numbers of every rank: for each number, what the ranks have, in their order."""
    if not are_many():
        return [[int(number)] for number in numbers]
    import torch

    mine = torch.tensor(numbers, dtype=torch.int64)
    found = [torch.empty_like(mine) for _ in range(_group().get_world_size())]
    with together():
        _group().all_gather(found, mine)
    return torch.stack(found, dim=1).tolist()


def gather_rows(rows: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Tensors [N, ...] of every rank, in their order.

    Args:
        rows: of this rank.
        lengths: N of every rank.
    """
    if not are_many():
        return [rows]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    found = [padded.clone() for _ in lengths]
    with together():
        _group().all_gather(found, padded)
    return [tensor[:length] for tensor, length in zip(found, lengths)]


def from_main(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank; what it raises instead is raised on all of them."""
    if not are_many():
        return make()
    result: list[Any] = [None, None]
    error = None
    if is_main():
        try:
            result[0] = make()
        except Exception as problem:
            error, result[1] = problem, (getattr(problem, "exit_code", None), str(problem))
    with together():
        _group().broadcast_object_list(result, src=0)
    if error is not None:
        raise error
    if result[1] is not None:
        code, message = result[1]
        problem = UserError(message) if code is not None else RuntimeError(f"rank 0: {message}")
        problem.exit_code = code
        raise problem
    return result[0]


def _group() -> Any:
    """:mod:`torch.distributed` with a process group, or None; whoever made a group has imported it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed
