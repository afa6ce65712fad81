"""The two ways from a volume in HU to its reconstruction in HU, for all that measures reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.inferers import Inferer
from monai.networks.utils import eval_mode

from ctpa_vqgan.data import finite_to_hu, scale_hu_
from ctpa_vqgan.inferers import ExactTileInferer, latent_grid
from ctpa_vqgan.metrics import CodeCounter
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField


class Reconstructor:
    """A network with its inferers, as functions of volumes [X, Y, Z] in HU of any size.

    Args:
        network: on the device that computes.
        inferer: of windows.
        hu_window: HU at -1 and 1.
        tiles: how volumes become codes, and codes volumes.
        bf16: whether windows are computed under bf16 autocast, as MONAI's evaluator does.
    """

    def __init__(
        self,
        network: VQGAN,
        inferer: Inferer,
        hu_window: Sequence[float],
        tiles: ExactTileInferer | None = None,
        bf16: bool = False,
    ) -> None:
        self.network, self.inferer, self.hu_window, self.bf16 = network, inferer, tuple(hu_window), bf16
        self.tiles = tiles or ExactTileInferer()

    @property
    def has_codes(self) -> bool:
        """Whether codes of whole volumes can be made by tiles."""
        try:
            return self.network.halo is not None
        except UnboundedReceptiveField:
            return False

    @property
    def reach(self) -> tuple[int, ...] | None:
        """Voxels on either side that a reconstructed voxel depends on; None for a network without bound."""
        if not self.has_codes:
            return None
        halo = self.network.halo
        return tuple((e + d + 1) * f for e, d, f in zip(halo.encoder, halo.decoder, self.network.factor))

    @torch.no_grad()
    def by_windows(self, hu: torch.Tensor) -> torch.Tensor:
        """Every window encoded and decoded, the images blended: int16 HU on the CPU.

        Raises:
            BadNumbers: if the network gives NaN or infinity.
        """
        image, device = self._image(hu), next(self.network.parameters()).device
        if getattr(self.inferer, "sw_device", None) is None:  # or the inferer brings windows there
            image = image.to(device)
        with eval_mode(self.network), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return finite_to_hu(self.inferer(image, self.network)[0, 0].cpu(), self.hu_window)

    @torch.no_grad()
    def encode(self, hu: torch.Tensor) -> torch.Tensor:
        """Codes [h, w, d] of the whole volume."""
        return self.tiles.encode(self._image(hu), self.network)[0]

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """What codes [h, w, d] decode to: int16 HU [X, Y, Z] of this size, on the CPU."""
        codes = codes.cpu()[None]  # the volume is made where its codes are, int16 tile by tile
        volume = self.tiles.decode(codes, self.network, after=lambda tile: finite_to_hu(tile, self.hu_window))
        return volume[0, 0][tuple(slice(side) for side in size)]

    def by_codes(self, hu: torch.Tensor) -> torch.Tensor:
        """Encoded and decoded as a whole, by exact tiles: int16 HU on the CPU."""
        return self.decode(self.encode(hu), hu.shape)

    def with_codes(self, hu: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Reconstruction by windows, and of its codes: how many ``bits`` they take, and use of the codebook."""
        num_tokens = math.prod(latent_grid(hu.shape, self.network.factor))
        scores = {"bits": num_tokens * math.log2(self.network.num_embeddings)}
        if self.has_codes:
            counter = CodeCounter(self.network.num_embeddings)
            counter.update(self.encode(hu))
            scores |= {"usage": counter.usage(), "perplexity": counter.perplexity()}
        return self.by_windows(hu), scores

    def _image(self, hu: torch.Tensor) -> torch.Tensor:
        return scale_hu_(hu.to(torch.float32, copy=True), self.hu_window)[None, None]
