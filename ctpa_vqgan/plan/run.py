"""What ``python -m ctpa_vqgan plan`` does."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser

from ctpa_vqgan.cli.workflows import check_plain
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.networks.quantizers import TRAINING_STATE
from ctpa_vqgan.plan.amount import Amount, amount_of
from ctpa_vqgan.plan.config import TrainingConfig
from ctpa_vqgan.plan.memory import StepMemory
from ctpa_vqgan.plan.page import plan_page
from ctpa_vqgan.plan.trial import try_steps
from ctpa_vqgan.precision import uses_bf16
from ctpa_vqgan.trainer import GAN_TERMS

KNOBS = ("patch_size", "batch_size", "micro_batch_size", "max_epochs", "adversarial_start", "checkpointing")
KEPT = {"keep_last": 2, "keep_best": 1}  # where the config has no such knobs
NUM_VOLUMES = 1349
DEVICE_GB = 24.0
NETWORK_GBIT = 10.0  # Ethernet between machines; within one, NVLink is a hundred times faster and PCIe ten times


def run_plan(json_file: str | None = None, **options: Any) -> None:
    """:func:`make_plan`, printed, and written to a file if one is named."""
    plan = make_plan(**options)
    print(plan_page(plan))
    if json_file:
        write_whole(json_file, json.dumps(plan, indent=1) + "\n")


def make_plan(
    data: str | None = None,
    overlays: Sequence[str] = (),
    settings: Sequence[str] = (),
    bundle: str | None = None,
    device_gb: float = DEVICE_GB,
    num_volumes: int = NUM_VOLUMES,
    calibrate: bool = False,
    world_size: int = 1,
    network_gbit: float = NETWORK_GBIT,
) -> dict[str, Any]:
    """Foretell a training with the bundle's train.yaml and these overlays.

    The plan is for CUDA unless the knob ``device`` says cpu.

    Args:
        data: a data set as for training, of which only headers are read; without it ``num_volumes`` count.
        overlays: config files of a few knobs.
        settings: ``knob=value``, the last word.
        bundle: folder of the bundle.
        device_gb: memory of the device, GB (10^9 bytes).
        num_volumes: of 512 x 512 x 604 voxels, at least 2.
        calibrate: try a few steps on this machine too, for the time.
        world_size: ranks that train together, a device each. Memory and traffic are those of one rank.
        network_gbit: Gbit/s that a rank can send, and receive meanwhile; assumed for the time of sending.

    Returns:
        Numbers by section; bytes, seconds and days. JSON takes it as it is.

    Raises:
        UserError: a key, file or value that does not fit.
    """
    if not 0 < device_gb < math.inf:
        raise UserError(f"--device-gb: expected gigabytes above 0, found {device_gb:g}")
    if num_volumes < 2:
        raise UserError(f"--num-volumes: expected at least 2, one to train on and one held out, found {num_volumes}")
    if world_size < 1:
        raise UserError(f"--world-size: expected at least 1 rank, found {world_size}")
    if not 0 < network_gbit < math.inf:
        raise UserError(f"--network-gbit: expected Gbit/s above 0, found {network_gbit:g}")
    for option, path in {"--data": data, "--bundle": bundle}.items():
        check_plain(option, path)
    config = TrainingConfig(overlays, settings, bundle, world_size)
    if calibrate and config.device:
        config.check(device=config.device)
    amount = amount_of(config.parser(), data, num_volumes)
    first = config.parser()
    joins = any(first["loss_weights"].get(term) for term in GAN_TERMS) and first["adversarial_start"] < amount.steps
    memory = config.memory(joins)
    limit = device_gb * 1e9
    plan: dict[str, Any] = {
        "data": data,
        "device": {"type": config.device_type, "gb": device_gb},
        "precision": config.precision,
        "discriminators": joins,
        "knobs": {name: first[name] for name in KNOBS},
        "amount": {**amount._asdict(), "data_bytes": amount.data_bytes},
        "memory": _described(memory, config, limit),
        "disk": _disk(config.parser(), joins),
    }
    if not plan["memory"]["fits"]:
        plan |= _mended(config, joins, limit)
    phases = _phases(first, joins, amount)
    plan["trials"] = [_trial(config, discriminators, steps) for discriminators, steps in phases] if calibrate else []
    plan["ranks"] = _ranks(config, phases, amount, network_gbit)
    plan |= _time(plan)
    return plan


def _phases(parser: ConfigParser, joins: bool, amount: Amount) -> list[tuple[bool, int]]:
    """Whether discriminators are at work, and for how many steps."""
    alone = min(parser["adversarial_start"], amount.steps) if joins else amount.steps
    return [phase for phase in ((False, alone), (True, amount.steps - alone)) if phase[1]]


def _ranks(
    config: TrainingConfig, phases: Sequence[tuple[bool, int]], amount: Amount, network_gbit: float
) -> dict[str, Any]:
    """How patches are shared, and what is sent in a step of each phase; by formula."""
    # the last batch of an epoch is smaller: some ranks have a patch less, or none, and wait
    whole, rest = divmod(amount.patches_per_epoch, config.parser()["batch_size"])
    busiest = whole * config.patches_per_rank + math.ceil(rest / config.world_size)
    traffic, joined = [], config.traffic(phases[-1][0])
    for discriminators, steps in phases:
        sent = joined if discriminators else joined._replace(discriminator_gradients=0)
        parts = {**sent._asdict(), "sent_per_rank": sent.sent_per_rank, "seconds": sent.seconds(network_gbit)}
        traffic.append({"discriminators": discriminators, "steps": steps, **parts})
    return {
        "world_size": config.world_size,
        "network_gbit": network_gbit,
        "patches_per_step": config.patches_per_rank,
        "share_at_work": amount.patches_per_epoch / (config.world_size * busiest),
        "traffic": traffic,
        "sent_per_epoch": traffic[-1]["sent_per_rank"] * amount.steps_per_epoch,
    }


def _time(plan: dict[str, Any]) -> dict[str, Any]:
    """Of all ranks, from the trials of one: a step takes as long as the patches of a rank, and the sending after it."""
    if not plan["trials"]:
        return {"days_of_one_rank": None, "days": None, "efficiency": None}
    ranks, one, many = plan["ranks"], 0.0, 0.0
    for trial, sent in zip(plan["trials"], ranks["traffic"]):
        share = ranks["patches_per_step"] / plan["knobs"]["batch_size"]
        trial["seconds_of_ranks"] = trial["seconds"] * share + sent["seconds"]
        one += trial["seconds"] * trial["steps"]
        many += trial["seconds_of_ranks"] * trial["steps"]
    return {
        "days_of_one_rank": one / 86400,
        "days": many / 86400,
        "efficiency": one / (ranks["world_size"] * many),
    }


def _described(memory: StepMemory, config: TrainingConfig, limit: float) -> dict[str, Any]:
    needed = config.needed(memory)
    return {**memory._asdict(), "device_bytes": needed, "fits": needed <= limit}


def _mended(config: TrainingConfig, discriminators: bool, limit: float) -> dict[str, Any]:
    """The largest micro-batch that fits, or 0; and what other knobs would bring with it."""
    parser = config.parser()
    size, largest = parser["micro_batch_size"], 0
    while size > 1 and not largest:
        size //= 2
        if config.needed(config.memory(discriminators, micro_batch_size=size)) <= limit:
            largest = size
    if largest:
        return {"largest_micro_batch_size": largest, "ways_out": []}
    patch, factor = list(parser["patch_size"]), parser["factor"]
    longest = patch.index(max(patch))
    patch[longest] = max(patch[longest] // 2 // factor[longest], 1) * factor[longest]
    ways: list[tuple[str, str, dict[str, Any]]] = [("checkpointing=true", config.precision, {"checkpointing": True})]
    if config.precision == "float32":
        ways.append(("precision=bf16", "bf16", {}))
    ways.append((f"patch_size={patch}", config.precision, {"patch_size": patch}))
    ways_out = []
    for text, precision, knobs in ways:
        try:
            memory = config.memory(discriminators, precision, micro_batch_size=1, **knobs)
        except UserError:  # a patch too small for the discriminators
            continue
        needed = config.needed(memory)
        ways_out.append({"set": text.replace(" ", ""), "bytes": needed, "fits": needed <= limit})
    return {"largest_micro_batch_size": 0, "ways_out": ways_out}


def _disk(parser: ConfigParser, discriminators: bool) -> dict[str, int]:
    """Bytes of a checkpoint, of all that are kept at once, and of the exported weights."""
    network, discriminator = (parser.get_parsed_content(name) for name in ("network", "discriminator"))
    state = {name: _size(tensor) for name, tensor in network.state_dict().items()}
    learnt = [sum(map(_size, module.parameters())) for module in (network, discriminator)]
    # AdamW keeps two averages of every weight; the moving average of the network is one more network
    moments = 2 * (learnt[0] + (learnt[1] if discriminators else 0))
    checkpoint = 2 * sum(state.values()) + sum(map(_size, discriminator.state_dict().values())) + moments
    kept = sum(parser.config.get(knob, default) for knob, default in KEPT.items())
    return {
        "checkpoint": checkpoint,
        "kept": kept,
        "checkpoints": checkpoint * (kept + 1),
        "weights": sum(size for name, size in state.items() if name.rpartition(".")[2] not in TRAINING_STATE),
    }


def _trial(config: TrainingConfig, discriminators: bool, steps: int) -> dict[str, Any]:
    """Of a phase of the training, on this machine alone, with the number of its steps."""
    device = config.device or torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    precision = "bf16" if uses_bf16(device, config.parser()["precision"]) else "float32"
    trial = try_steps(config.parser(device=device), device, precision, discriminators)
    return {**trial._asdict(), "discriminators": discriminators, "steps": steps}


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
