"""One optimizer step side by side: ours with its memory switches, MONAI's VQVAE, and MONAI's AutoencoderKlMaisi.

    python benchmarks/training_step.py [--device cuda] [--patches 256x256x128 ...] [--precisions bf16] [--json FILE]

A step takes ``--batch`` patches one by one, adds up their gradients, clips them and lets AdamW step. Ours is
``VQGANTrainer`` as users run it; the rivals have the same loop without an engine around it. All learn from L1; rows
that say more have the losses of the bundle's recipe and its averaged weights. The patch lies on the device before the
clock runs.

Networks of the same width at the same resolution, factor 4, codes of dimension 8 from a book of ``--codes``:

* ours: space-to-depth, then widths C and 2C at a half and a quarter of the resolution;
* VQVAE: strided convolutions to the same two grids, the same widths, one residual unit per level, no norm, MONAI's own
  EMA quantizer;
* AutoencoderKlMaisi: needs a level at full resolution for factor 4, which gets width C/2; one residual block per level,
  16 groups, no attention, no splits, no emptying of the CUDA cache. It quantizes nothing; its KL term is left out.

``ours, no front end`` has that level at full resolution too, of the same width.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.networks.nets import VQVAE
from side_by_side import (
    OK,
    Row,
    Work,
    argument_parser,
    by_name,
    compare,
    fits,
    mib,
    number,
    paired,
    parsed,
    provenance,
    report,
    status_or,
    table,
)
from torch import nn

from ctpa_vqgan.losses import GradientLoss, HUL1Loss, WeightedLosses
from ctpa_vqgan.networks import VQGAN, PatchDiscriminators, VectorQuantizer
from ctpa_vqgan.precision import numerics
from ctpa_vqgan.trainer import VQGANTrainer, weight_ema

SIZES = {
    "smoke": {
        "patches": [(16, 16, 16)],
        "batch": 2,
        "width": 8,
        "codes": 32,
        "discriminator_channels": 4,
        "precisions": ["float32"],
        "repeats": 1,
    },
    "cpu": {
        "patches": [(64, 64, 32)],
        "batch": 1,
        "width": 64,
        "codes": 8192,
        "discriminator_channels": 32,
        "precisions": ["float32"],
        "repeats": 3,
    },
    "cuda": {
        "patches": [(256, 256, 128), (192, 192, 96), (128, 128, 128)],
        "batch": 4,
        "width": 64,
        "codes": 8192,
        "discriminator_channels": 32,
        "precisions": ["bf16", "float32", "tf32"],
        "repeats": 3,
    },
}
EMBEDDING_DIM = 8
OURS, OURS_GAN = "ours", "ours, all losses, discriminators"
COMPILED = "ours, torch.compile"
VQVAE_ROW, MAISI_ROW = "MONAI VQVAE", "MONAI AutoencoderKlMaisi"
BETWEEN = (OURS, OURS_GAN, VQVAE_ROW, MAISI_ROW)  # what every patch size and precision is compared by
# PyTorch's share of a card with 24 GiB, the rest is for CUDA itself
CARD_GIB, VOLUME = 23.0, (512, 512, 604)
Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | float]]


class Contender(NamedTuple):
    """What takes a step, and what it holds while it does not."""

    work: Work
    parameters: int
    state_bytes: Callable[[], int]


# -- the networks ------------------------------------------------------------------------------------------------------


def our_network(width: int, codes: int, **switches: object) -> VQGAN:
    """The bundle's network with its codebook made after the first step."""
    channels = (width // 2, width, 2 * width) if switches.get("front_end") == "none" else (width, 2 * width)
    quantizer = VectorQuantizer(codes, EMBEDDING_DIM, init="data", init_steps=1)
    return VQGAN(channels=channels, quantizer=quantizer, **switches)


def monai_vqvae(width: int, codes: int, **switches: object) -> VQVAE:
    """Two strided levels; without a norm it learns slowly, which is no matter here."""
    return VQVAE(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(width, 2 * width),
        num_res_layers=1,
        num_res_channels=(width, 2 * width),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=codes,
        embedding_dim=EMBEDDING_DIM,
        decay=0.99,
        **switches,
    )


def monai_maisi(width: int) -> AutoencoderKlMaisi:
    """Three levels, no attention."""
    return AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_res_blocks=(1, 1, 1),
        num_channels=(width // 2, width, 2 * width),
        attention_levels=(False, False, False),
        latent_channels=EMBEDDING_DIM,
        norm_num_groups=min(16, width // 2),
        num_splits=1,
        save_mem=False,
    )


# -- the steps ---------------------------------------------------------------------------------------------------------


def our_step(
    network: VQGAN,
    batch: torch.Tensor,
    precision: str,
    discriminator: nn.Module | None = None,
    recipe: bool = False,
    compile: bool = False,
) -> Contender:
    """The package's trainer, in one long run that is interrupted after every step."""
    network.to(batch.device)
    weights = {"l1": 1.0, "perceptual": 0.5 if recipe else 0.0, "commitment": 0.25}
    weights |= {"adversarial": 0.05, "feature_matching": 0.1} if discriminator else {}
    external = [name for name in ("commitment", "adversarial", "feature_matching") if name in weights]
    losses = WeightedLosses({"l1": HUL1Loss(), "perceptual": GradientLoss()}, weights, external).to(batch.device)
    modules, optimizers = [network], [torch.optim.AdamW(network.parameters(), 1e-4)]
    pair = {"ema": weight_ema(network)} if recipe else {}
    if discriminator:
        modules.append(discriminator.to(batch.device))
        optimizers.append(torch.optim.AdamW(discriminator.parameters(), 1e-4))
        pair |= {"discriminator": discriminator, "d_optimizer": optimizers[1]}
    trainer = VQGANTrainer(
        device=batch.device,
        max_epochs=1,
        epoch_length=10**9,
        train_data_loader=[{"image": batch}],
        network=network,
        losses=losses,
        g_optimizer=optimizers[0],
        precision="bf16" if precision == "bf16" else "float32",
        compile=compile,
        **pair,
    )

    trainer.add_event_handler(Events.ITERATION_COMPLETED, trainer.interrupt)
    # ignite calls it an error when an interrupted run is never taken up again
    trainer.logger = logging.getLogger("benchmarks")
    trainer.logger.setLevel(logging.CRITICAL)

    def work() -> None:
        before = trainer.state.iteration
        with numerics("tf32" if precision == "tf32" else "float32", batch.device.type):
            trainer.run()
        assert trainer.state.iteration == before + 1
        if compile and network.encoder._compiled_call_impl is None:
            raise RuntimeError("torch.compile failed, see above")
        trainer.state.output = None
        forget_gradients(optimizers)

    return contender(work, modules, optimizers, pair.get("ema"))


def rival_step(network: nn.Module, forward: Forward, batch: torch.Tensor, precision: str) -> Contender:
    """The same by hand: ``forward`` gives a reconstruction and what is added to L1."""
    network.to(batch.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def work() -> None:
        for micro in batch.split(1):
            with numerics(precision, batch.device.type):
                reconstruction, extra = forward(micro)
                loss = F.l1_loss(reconstruction.float(), micro) + extra
                (loss / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        forget_gradients([optimizer])

    return contender(work, [network], [optimizer])


def forget_gradients(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """So that they count as the memory of a step."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)


def contender(
    work: Work,
    modules: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    ema: nn.Module | None = None,
) -> Contender:
    """Its numbers; the optimizers' state is there after the first step."""

    def state_bytes() -> int:
        loaded = [*modules, ema] if ema else modules
        held = [tensor for module in loaded for tensor in itertools.chain(module.parameters(), module.buffers())]
        for optimizer in optimizers:
            held += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        return sum(tensor.nbytes for tensor in held)

    return Contender(work, sum(p.numel() for module in modules for p in module.parameters()), state_bytes)


def contenders(
    options: argparse.Namespace, batch: torch.Tensor, precision: str, everyone: bool
) -> dict[str, Contender]:
    """All rows of one patch size and precision, or those of ``BETWEEN``."""
    network = functools.partial(our_network, options.width, options.codes)
    step = functools.partial(our_step, batch=batch, precision=precision)

    def critics() -> PatchDiscriminators:
        # a small patch has no room for the recipe's three layers
        layers = 3 if min(batch.shape[2:]) >= 32 else 1
        return PatchDiscriminators(options.discriminator_channels, layers)

    def contiguous() -> Contender:
        return step(network().to(memory_format=torch.contiguous_format))

    def vqvae(**switches: object) -> Contender:
        rival = monai_vqvae(options.width, options.codes, **switches)
        return rival_step(rival, rival, batch, precision)

    def maisi() -> Contender:
        rival = monai_maisi(options.width)
        return rival_step(rival, lambda x: (rival(x)[0], 0.0), batch, precision)

    makers = {
        OURS: lambda: step(network()),
        VQVAE_ROW: vqvae,
        MAISI_ROW: maisi,
        "ours, all losses": lambda: step(network(), recipe=True),
        OURS_GAN: lambda: step(network(), discriminator=critics(), recipe=True),
        "ours, checkpointing": lambda: step(network(checkpointing=True)),
        "ours, checkpointing the finest level": lambda: step(network(checkpointing=[True, False])),
        "MONAI VQVAE, checkpointing": lambda: vqvae(use_checkpointing=True),
        "ours, not channels last": contiguous,
        "ours, front end haar": lambda: step(network(front_end="haar")),
        "ours, no front end": lambda: step(network(front_end="none")),
        COMPILED: lambda: step(network(), compile=True),
    }
    if not options.compile:
        del makers[COMPILED]
    result = {}
    for name, make in makers.items():
        if everyone or name in BETWEEN:
            torch.manual_seed(0)
            result[name] = make()
    return result


# -- the run -----------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> list[Row]:
    """All rows; the switches of ours only at the first patch size and precision."""
    rows = []
    for place, (precision, patch) in enumerate(itertools.product(options.precisions, options.patches)):
        shape = (options.batch, 1, *patch)
        batch = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(options.device)
        entrants = contenders(options, batch, precision, everyone=place == 0)
        # the operations of a compiled network on a CPU cannot be followed one by one
        uncounted = [COMPILED] if options.device == "cpu" else []
        works = {name: entrant.work for name, entrant in entrants.items()}
        results = compare(works, options.device, options.repeats, warm_ups=2, uncounted=uncounted)
        ours = by_name(results)[OURS]
        for row in results:
            entrant = entrants[row["name"]]
            row |= {"patch": list(patch), "precision": precision, "times_seconds": paired(row, ours)}
            row |= {"parameters": entrant.parameters, "state_bytes": entrant.state_bytes()}
            row["times_bytes"] = paired(row, ours, "peak_bytes")
            if row["status"] == OK:
                row["patches_per_second"] = options.batch / row["seconds"]
                if options.device == "cuda":
                    row["fits_24_gb"] = fits(entrant.work, CARD_GIB)
            rows.append(row)
    return rows


def markdown(content: dict) -> str:
    """Tables for the screen and for docs/performance.md."""
    tables = []
    for (precision, patch), rows in itertools.groupby(content["rows"], lambda row: (row["precision"], row["patch"])):
        head, lines = _table(list(rows), content["device"] == "cuda")
        tables.append(f"Patches of {'x'.join(map(str, patch))}, {precision}:\n\n" + table(head, lines))
    size = f"{content['batch']} patches per step, one at a time; C = {content['width']}; {content['codes']} codes; "
    return "\n\n".join([*tables, f"{size}rounds: {content['repeats']}. {provenance(content)}"])


def _table(rows: list[Row], cuda: bool) -> tuple[list[str], list[list[str]]]:
    head = ["one step", "patches/s", "time, times ours", "peak memory [MiB]", "memory, times ours", "weights [M]"]
    head += ["held meanwhile [MiB]", "reserved [MiB]", "fits 24 GB", "GPU s per volume"] if cuda else []
    lines = []
    for row in rows:
        cells = [row["name"], status_or(row, number(row.get("patches_per_second"))), number(row["times_seconds"])]
        cells += [status_or(row, mib(row)), number(row["times_bytes"]), number(row["parameters"] / 1e6)]
        if cuda:
            cells += [mib(row, "state_bytes"), status_or(row, mib(row, "reserved_bytes"))]
            cells.append({True: "yes", False: "no"}.get(row.get("fits_24_gb"), "-"))
            cells.append(number(windows(row["patch"]) / row["patches_per_second"] if row["status"] == OK else None))
        lines.append(cells)
    return head, lines


def windows(patch: Sequence[int]) -> int:
    """How many patches cover a volume of 512x512x604 with an overlap of a quarter.

    >>> windows((256, 256, 128))
    54
    """
    return math.prod(math.ceil((whole - side) / (side * 3 // 4)) + 1 for whole, side in zip(VOLUME, patch))


def patch_size(text: str) -> tuple[int, ...]:
    """``256x256x128``."""
    size = tuple(int(side) for side in text.split("x"))
    if len(size) != 3 or any(side < 4 or side % 4 for side in size):
        raise argparse.ArgumentTypeError(f"{text} must be three multiples of 4, as in 64x64x32")
    return size


def main(argv: Sequence[str] | None = None) -> dict:
    """Read the arguments, measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--patches", type=patch_size, nargs="+", metavar="XxYxZ", help="patch sizes")
    parser.add_argument("--batch", type=int, help="patches per optimizer step")
    parser.add_argument("--width", type=int, help="channels C at half the resolution")
    parser.add_argument("--codes", type=int, help="size of the codebook")
    parser.add_argument("--discriminator-channels", type=int, help="width of the discriminators' first layer")
    parser.add_argument("--precisions", nargs="+", choices=("float32", "tf32", "bf16"), help="tf32 is for CUDA")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="a row for torch.compile; the default on CUDA"
    )
    options = parsed(parser, argv, SIZES)
    if options.device == "cpu" and "tf32" in options.precisions:
        parser.error("tf32 is a precision of CUDA")
    if options.compile is None:
        options.compile = options.device == "cuda" and not options.smoke
    sizes = {name: getattr(options, name) for name in ("batch", "width", "codes", "repeats")}
    return report(options, markdown, **sizes, rows=run(options))


if __name__ == "__main__":
    main()
