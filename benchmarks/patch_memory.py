"""What does training keep of one full patch? Counted, for the default patch and for any other, without computing it.

    python benchmarks/patch_memory.py [--patch 256 256 128] [--width 64] [--json FILE]

The networks of training_step.py run forward and backward on tensors that know only their shape (PyTorch's meta device),
and every tensor is followed until it is freed. So this is a count and no measurement: it leaves out weights, optimizer
and discriminators, and what the kernels of a device take for themselves. bf16: everything but the image, the
reconstruction and the loss has 16 bits; AutoencoderKlMaisi, whose norms insist on float32, is counted in float32 only.
Quantizers are left out, see quantizer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import GIB, count_parser, number, provenance, report, table
from torch import nn
from training_step import MAISI_ROW, OURS, VQVAE_ROW, monai_maisi, monai_vqvae, our_network

from ctpa_vqgan.inferers.memory import LiveBytes

CODES = 16  # the book has no part in this
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
Autoencode = Callable[[torch.Tensor], torch.Tensor]


def contenders(width: int) -> dict[str, tuple[nn.Module, Autoencode]]:
    """Networks, and how each takes an image to a reconstruction without quantizing."""

    def ours(**switches: object) -> tuple[nn.Module, Autoencode]:
        network = our_network(width, CODES, **switches)
        return network, lambda x: network.decoder(network.encoder(x))

    vqvae, maisi = monai_vqvae(width, CODES), monai_maisi(width)
    return {
        OURS: ours(),
        "ours, checkpointing the finest level": ours(checkpointing=[True, False]),
        "ours, checkpointing": ours(checkpointing=True),
        "ours, no front end": ours(front_end="none"),
        "ours, GroupNorm": ours(norm="group"),
        VQVAE_ROW: (vqvae, lambda x: vqvae.decode(vqvae.encode(x))),
        MAISI_ROW: (maisi, lambda x: maisi.decode(maisi.encode(x)[0])),
    }


def counted(network: nn.Module, autoencode: Autoencode, patch: Sequence[int], dtype: torch.dtype) -> dict[str, int]:
    """Bytes that lie between forward and backward, and at the worst moment of both."""
    network.train().to(device="meta", dtype=dtype)
    with LiveBytes() as live:
        image = torch.zeros(1, 1, *patch, device="meta")
        loss = F.l1_loss(autoencode(image.to(dtype)).float(), image)
        kept = live.now
        loss.backward()
    return {"kept_bytes": kept, "peak_bytes": live.peak}


def markdown(content: dict[str, Any]) -> str:
    """Table for the screen and for docs/performance.md."""
    head = ["one patch, forward and backward"]
    head += [f"{precision}: {what} [GiB]" for precision in PRECISIONS for what in ("kept for backward", "peak")]
    lines = [
        [row["name"]]
        + [number(row[p][what] / GIB) if p in row else "-" for p in PRECISIONS for what in ("kept_bytes", "peak_bytes")]
        for row in content["rows"]
    ]
    patch = "x".join(map(str, content["patch"]))
    return f"{table(head, lines)}\n\nOne patch of {patch}, C = {content['width']}; counted. {provenance(content)}"


def main(argv: Sequence[str] | None = None) -> dict:
    """Count, print and write."""
    parser = count_parser(__doc__)
    parser.add_argument("--patch", type=int, nargs=3, default=(256, 256, 128))
    parser.add_argument("--width", type=int, default=64, help="channels C at half the resolution")
    options = parser.parse_args(argv)
    rows = []
    for name, (network, autoencode) in contenders(options.width).items():
        kinds = {"float32": torch.float32} if name == MAISI_ROW else PRECISIONS
        counts = {p: counted(network, autoencode, options.patch, dtype) for p, dtype in kinds.items()}
        rows.append({"name": name, **counts})
    return report(options, markdown, patch=list(options.patch), width=options.width, rows=rows)


if __name__ == "__main__":
    main()
