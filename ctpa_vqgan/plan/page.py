"""A plan as a table for the screen."""

from __future__ import annotations

from typing import Any

GIB = 2**30


def plan_page(plan: dict[str, Any]) -> str:
    """What :func:`~ctpa_vqgan.plan.run.make_plan` found, one line each."""
    sections = [_training(plan), _memory(plan), _disk(plan), _time(plan)]
    if plan["ranks"]["world_size"] > 1:
        sections.insert(3, _network(plan))
    return "\n\n".join(f"{title}\n" + "\n".join(_line(*row) for row in rows) for title, rows in sections)


def gib(number: float) -> str:
    """Bytes with a unit that fits."""
    return f"{number / GIB:.2f} GiB" if number >= GIB / 10 else f"{number / 2**20:.1f} MiB"


def _line(name: str, value: Any, remark: str = "") -> str:
    return f"  {name:<34}{value:>16}  {remark}".rstrip()


def _training(plan: dict[str, Any]) -> tuple[str, list[tuple]]:
    amount, knobs = plan["amount"], plan["knobs"]
    where = plan["data"] or "assumed, 512 x 512 x 604 each"
    return "Training", [
        ("volumes", f"{amount['volumes']:,}", f"{amount['training_volumes']:,} to train on ({where})"),
        ("voxels", f"{amount['voxels']:,}", f"{gib(amount['data_bytes'])} as int16"),
        ("patches per epoch", f"{amount['patches_per_epoch']:,}", f"of {_by(knobs['patch_size'])} voxels"),
        ("steps per epoch", f"{amount['steps_per_epoch']:,}", f"batch_size {knobs['batch_size']}"),
        ("steps in all", f"{amount['steps']:,}", f"{knobs['max_epochs']} epochs"),
        ("discriminators", "join" if plan["discriminators"] else "never join", _joining(plan)),
        *_sharing(plan["ranks"]),
    ]


def _sharing(ranks: dict[str, Any]) -> list[tuple]:
    if ranks["world_size"] == 1:
        return []
    waiting = 1 - ranks["share_at_work"]
    return [
        ("ranks", f"{ranks['world_size']:,}", "a device each; as many steps as one rank, and the same results"),
        ("patches of a rank and step", f"{ranks['patches_per_step']:,}", "at most"),
        ("ranks wait", f"{waiting:.1%}", "of their time, for those with one patch more; by formula"),
    ]


def _joining(plan: dict[str, Any]) -> str:
    return f"at step {plan['knobs']['adversarial_start']:,}" if plan["discriminators"] else ""


def _memory(plan: dict[str, Any]) -> tuple[str, list[tuple]]:
    memory, knobs, device = plan["memory"], plan["knobs"], plan["device"]
    rows = [(name, gib(memory[name])) for name in ("weights", "gradients", "optimizer", "ema")]
    world_size = plan["ranks"]["world_size"]
    if world_size > 1:
        rows.append(("for the other ranks", gib(memory["ranks"]), "buckets of gradients, gathered latents; by formula"))
    rows += [
        ("activations kept", gib(memory["activations"]), f"for micro_batch_size {knobs['micro_batch_size']}"),
        ("peak", gib(memory["peak"]), "counted on shapes, everything above included"),
    ]
    if device["type"] == "cuda":
        rows.append(("needed on a device", gib(memory["device_bytes"]), "with CUDA's own and gaps, assumed"))
    who = "each rank" if world_size > 1 else "training"
    title = f"Memory of {who} ({plan['precision']}, {device['type']} with {device['gb']:g} GB)"
    if memory["fits"]:
        rows.append(("fits", "yes"))
    else:
        largest = plan["largest_micro_batch_size"]
        rows.append(("fits", "no", f"micro_batch_size={largest} does" if largest else "not with micro_batch_size=1"))
        for way in plan["ways_out"]:
            rows.append((f"  {way['set']}", gib(way["bytes"]), "fits" if way["fits"] else "too much still"))
    peaks = [gib(trial["peak"]) for trial in plan["trials"] if trial["peak"]]
    rows.append(
        ("peak measured", peaks[-1] if peaks else "not measured", "" if peaks else "needs --calibrate and CUDA")
    )
    return title, rows


def _disk(plan: dict[str, Any]) -> tuple[str, list[tuple]]:
    disk = plan["disk"]
    return "Disk", [
        ("checkpoint", gib(disk["checkpoint"]), f"{disk['kept']} are kept, and one more while saving"),
        ("checkpoints in all", gib(disk["checkpoints"])),
        ("exported weights", gib(disk["weights"])),
    ]


def _network(plan: dict[str, Any]) -> tuple[str, list[tuple]]:
    ranks = plan["ranks"]
    sent = ranks["traffic"][-1]
    joined = "with discriminators" if sent["discriminators"] else "without discriminators"
    names = {
        "gradients": ("gradients", "summed, as float64"),
        "discriminator_gradients": ("gradients of discriminators", "summed, as float64"),
        "codebook": ("statistics of the codebook", "summed, as float64"),
        "code_counts": ("counts of codes", "summed"),
        "book": ("the codebook after its step", "copied from the first"),
        "code_list": ("codes that occurred", "gathered, at most"),
        "reservoir": ("latents for restarts", "gathered"),
    }
    rows = [(name, gib(sent[key]), remark) for key, (name, remark) in names.items() if sent[key]]
    rows += [
        ("sent by a rank per step", gib(sent["sent_per_rank"]), "and as much received"),
        ("sent by a rank per epoch", gib(ranks["sent_per_epoch"])),
        ("time of sending per step", f"{sent['seconds']:.3g} s", f"at {ranks['network_gbit']:g} Gbit/s, assumed"),
    ]
    return f"Network per step of {ranks['world_size']} ranks ({joined}; all by formula)", rows


def _time(plan: dict[str, Any]) -> tuple[str, list[tuple]]:
    rows: list[tuple] = []
    ranks = plan["ranks"]
    for trial in plan["trials"]:
        phase = "with discriminators" if trial["discriminators"] else "without discriminators"
        how = f"{trial['steps']:,} of them, measured on {trial['device']}"
        rows.append((f"step {phase}", f"{trial['seconds']:.3g} s", how))
        if ranks["world_size"] > 1:
            rows.append(
                ("  of the ranks", f"{trial['seconds_of_ranks']:.3g} s", "by formula: its patches, then sending")
            )
    if not rows:
        return "Time", [("not measured", "", "--calibrate tries a few steps on this machine")]
    if ranks["world_size"] > 1:
        rows.append(("one rank in all", f"{plan['days_of_one_rank']:.3g} days"))
    rows.append(("in all", f"{plan['days']:.3g} days", "without loading that is too slow, and validation"))
    if ranks["world_size"] > 1:
        how = "time of one rank / (ranks x time of all); by formula"
        rows.append(("efficiency", f"{plan['efficiency']:.1%}", how))
    return "Time", rows


def _by(sides: list[int]) -> str:
    return " x ".join(map(str, sides))
