"""Rivals side by side: the same work in turn in one process, round after round, with paired ratios and peak memory.

Machines drift: a processor heats up, a neighbour wakes. So nobody runs all of his rounds first: a round is one call of
every contender, the next round follows, and a ratio is the median of the ratios within rounds.

Seconds are those of the clock, on CUDA with a synchronisation on both sides. Peak memory is taken in a call of its own
that is not timed, above what lay in memory before it (weights, optimizer state, inputs):

* on CUDA ``torch.cuda.max_memory_allocated``, and beside it ``max_memory_reserved`` as it is;
* on a CPU the bytes of live tensors, counted operation by operation, with an estimate of what a convolution takes in
  its forward pass. The resident set of the process says less: the C library keeps what was freed.

A contender that runs out of memory, or fails, is a row that says so, and the others go on.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from ctpa_vqgan.inferers import memory
from ctpa_vqgan.provenance import facts

MIB, GIB = 2**20, 2**30
OK, OUT_OF_MEMORY = "ok", "out of memory"
Work = Callable[[], Any]
Row = dict[str, Any]


# -- the command line --------------------------------------------------------------------------------------------------


def count_parser(doc: str) -> argparse.ArgumentParser:
    """The arguments of every script, also of one that counts on the CPU and compares no clocks."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("--commit", help="commit of the sources, where they are no git checkout")
    return parser


def argument_parser(doc: str) -> argparse.ArgumentParser:
    """The arguments of every script that compares rivals."""
    parser = count_parser(doc)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="also sets the sizes that are not given"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of every comparison")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None, sizes: dict[str, dict]) -> argparse.Namespace:
    """Parse, and take what was not given from ``sizes["smoke"]``, ``sizes["cpu"]`` or ``sizes["cuda"]``."""
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that this PyTorch can use")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats must be at least 1, found {options.repeats}")
    torch.backends.cudnn.benchmark = True  # as the bundle's workflows do, for everyone
    for name, value in sizes["smoke" if options.smoke else options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def report(options: argparse.Namespace, markdown: Callable[[dict], str], **content: Any) -> dict:
    """Print the tables; write them with hardware, versions and commit if a file was named."""
    device = getattr(options, "device", "cpu")
    torch_facts = {"threads": torch.get_num_threads()}
    if device == "cuda":
        torch_facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    content = {"device": device, **content, **facts(device), **torch_facts}
    content["commit"] = options.commit or content["commit"]
    print(markdown(content))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return content


# -- measuring ---------------------------------------------------------------------------------------------------------


def compare(
    works: dict[str, Work], device: str, repeats: int, warm_ups: int = 1, uncounted: Collection[str] = ()
) -> list[Row]:
    """Call every work ``repeats`` times in turn.

    Args:
        works: what to call, by name. A work cleans up after itself, so that the next call begins where it began.
        device: ``"cpu"`` or ``"cuda"``.
        repeats: rounds.
        warm_ups: calls of each before anything is measured.
        uncounted: names whose memory is not taken.

    Returns:
        For each work ``name``, ``status`` and, where that is ``"ok"``, ``seconds`` (the median), ``rounds`` (seconds),
        ``peak_bytes`` and, on CUDA, ``reserved_bytes``.
    """
    rows = []
    for name, work in works.items():
        began = time.perf_counter()
        row: Row = {"name": name, "status": attempt(lambda work=work: [work() for _ in range(warm_ups)])}
        if row["status"] == OK and name not in uncounted:
            row["status"] = attempt(lambda row=row, work=work: row.update(peak_memory(work, device)))
        rows.append(row | {"rounds": []})
        print(f"{name}: {row['status']}, first calls {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    for _ in range(repeats):
        for row in rows:
            if row["status"] == OK:
                row["status"] = attempt(lambda row=row: row["rounds"].append(seconds(works[row["name"]], device)))
    for row in rows:
        if row["status"] == OK:
            row["seconds"] = statistics.median(row["rounds"])
    return rows


def attempt(call: Work) -> str:
    """``"ok"``, ``"out of memory"`` or ``"failed: why"``."""
    status = OK
    try:
        call()
    except Exception as error:
        status = OUT_OF_MEMORY
        if not ran_out_of_memory(error):
            traceback.print_exc()
            status = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if status != OK:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return status


def ran_out_of_memory(error: Exception) -> bool:
    """Whether it is that, on CUDA or on a CPU (where PyTorch has no type for it)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def seconds(work: Work, device: str) -> float:
    """One call."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(work: Work, device: str) -> dict[str, int]:
    """Bytes at the worst moment of one call, above those before it."""
    if device != "cuda":
        with LiveBytes() as live:
            work()
        return {"peak_bytes": live.peak}
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return {
        "peak_bytes": torch.cuda.max_memory_allocated() - before,
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }


class LiveBytes(memory.LiveBytes):
    """``peak``: most bytes of tensors alive at once that a block makes; tensors that exist before it do not count.

    Nor do tensors that know only their shape, which tiles use to find how large they may be.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in map(torch.Tensor.untyped_storage, _real_tensors((args, kwargs))):
            if storage._cdata not in self._known:  # nothing in here made it
                self._known.add(storage._cdata)
                weakref.finalize(storage, self._known.discard, storage._cdata)
        result = func(*args, **kwargs)
        if tensors := _real_tensors(result):
            for tensor in tensors:
                self._follow(tensor.untyped_storage())
            self.peak = max(self.peak, self.now + memory.scratch_bytes(func, args, tensors))
        return result


def _real_tensors(tree: Any) -> list[torch.Tensor]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return [tensor for tensor in tensors if tensor.untyped_storage().device.type != "meta"]


def fits(work: Work, gib: float) -> bool:
    """Whether a CUDA work runs with so many GiB for PyTorch's allocator, tried out; what is loaded counts."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))
    try:
        return attempt(work) == OK
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def paired(row: Row, reference: Row, what: str = "seconds") -> float | None:
    """How many times the reference's seconds, by the median of the rounds, or bytes; None if one has no number."""
    if what == "seconds":
        ratios = [one / other for one, other in zip(row["rounds"], reference["rounds"])]
        return statistics.median(ratios) if ratios and row["status"] == reference["status"] == OK else None
    known = row.get(what) and reference.get(what) and row["status"] == reference["status"] == OK
    return row[what] / reference[what] if known else None


def by_name(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows of one comparison by the name of the contender."""
    return {row["name"]: row for row in rows}


# -- tables ------------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """So many digits that count, no exponent; a dash for None."""
    if value is None:
        return "-"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.10g}".replace(",", " ") + unit


def mib(row: Row, what: str = "peak_bytes") -> str:
    """Bytes of a row in MiB, or why there are none."""
    return number(row[what] / MIB) if row.get(what) is not None else "not counted"


def status_or(row: Row, text: str) -> str:
    """The text, or the status of a row that has no numbers."""
    return text if row["status"] == OK else row["status"]


def provenance(content: dict) -> str:
    """How the numbers came about, for the foot of a table."""
    libraries = f", CUDA {content['cuda']}, cuDNN {content['cudnn']}" if "cuda" in content else ""
    return (
        f"`{content['command']}` on {content['hardware']}, {content['threads']} threads; commit {content['commit']}, "
        f"{content['versions']}{libraries}, {content['date']}."
    )
