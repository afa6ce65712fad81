"""PatchGAN critics of a reconstruction: one looks at the volume, one at slices of all three planes.

# B batch, C channels, H W D voxels, S slices per plane, a b the sides of a slice
"""

from functools import partial
from typing import NamedTuple

import torch
from monai.networks.nets import PatchDiscriminator
from monai.networks.utils import normal_init
from torch import Tensor, nn

NORMS = ("instance", "batch")


class DiscriminatorOutput(NamedTuple):
    """Scores and features, one entry per view: the volume, then the planes across H, W and D.

    Attributes:
        logits: one tensor per view, [B, 1, h', w', d'] for the volume and [B*S, 1, a', b'] for a plane.
        features: for each view the activations of every layer before the logits, for feature matching.
    """

    logits: list[Tensor]
    features: list[list[Tensor]]


class PatchDiscriminators(nn.Module):
    """A 3-D and a 2-D PatchGAN on the same volume, as TATS and medicaldiffusion pair them, in MONAI's blocks.

    The volume critic sees continuity through slices; the slice critic sees the sharpness that a reader sees, at a
    quarter of the parameters, and one set of weights serves all three planes. PatchGAN: Isola et al. 2017, arXiv
    1611.07004; TATS: Ge et al. 2022, arXiv 2204.03638. With instance norm a sample scores the same in any micro-batch.
    MONAI's ``MultiScalePatchDiscriminator`` is not used (727 M parameters at its usual 64 channels).

    Args:
        channels: filters of the first layer, doubled by each of the next, up to ``max_channels``.
        num_layers: layers after the first; with 3 a logit judges 70 voxels a side; 3.46 M parameters at 32 channels.
        in_channels: channels of the volume.
        volume: whether the 3-D critic is on.
        slices: whether the 2-D critic is on.
        num_slices: S, evenly spaced slices per plane; all of them where a side has fewer.
        norm: ``"instance"``, or ``"batch"``: scores then hang on the micro-batch in training. The last four are for
            the critics that :mod:`ctpa_vqgan.networks.baseline` imports.
        padding: zeros on each side of every convolution, 1 or 2.
        bias: whether convolutions before a norm have one too.
        max_channels: filters that no layer has more of; None does not limit them.

    Raises:
        ValueError: if both critics are off, a number is below 1, or ``norm`` or ``padding`` are others.

    Example:
        >>> critics = PatchDiscriminators(channels=8, num_layers=2)
        >>> output = critics(torch.zeros(1, 1, 16, 16, 16))
        >>> [tuple(logits.shape) for logits in output.logits]
        [(1, 1, 2, 2, 2), (8, 1, 2, 2), (8, 1, 2, 2), (8, 1, 2, 2)]
    """

    def __init__(
        self,
        channels: int = 32,
        num_layers: int = 3,
        in_channels: int = 1,
        volume: bool = True,
        slices: bool = True,
        num_slices: int = 8,
        norm: str = "instance",
        padding: int = 1,
        bias: bool = False,
        max_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not (volume or slices):
            raise ValueError("volume and slices are both off; switch one on, or train without an adversarial term")
        for name, number in {"channels": channels, "num_layers": num_layers, "num_slices": num_slices}.items():
            if number < 1:
                raise ValueError(f"{name} is {number}, expected at least 1")
        if norm not in NORMS or padding not in (1, 2):
            raise ValueError(f"norm must be one of {', '.join(NORMS)} and padding 1 or 2, found {norm!r} and {padding}")
        critic = partial(
            PatchDiscriminator,
            channels=channels,
            in_channels=in_channels,
            num_layers_d=num_layers,
            norm=norm,
            padding=padding,
            bias=bias,
        )
        self.volume = critic(spatial_dims=3) if volume else None
        self.slices = critic(spatial_dims=2) if slices else None
        for one in filter(None, (self.volume, self.slices)):  # MONAI pads its last convolution by its kernel alone
            one.final_conv.conv.padding = (padding,) * len(one.final_conv.conv.padding)
            _limit(one, max_channels or channels * 2**num_layers)
        #: how to build them again, but for the choice of slices
        self.config = {
            "channels": channels,
            "num_layers": num_layers,
            "in_channels": in_channels,
            "volume": volume,
            "slices": slices,
            "norm": norm,
            "padding": padding,
            "bias": bias,
            "max_channels": max_channels,
        }
        self.num_slices = num_slices
        self.min_side = min_side(num_layers)

    def forward(self, volume: Tensor, offset: int = 0) -> DiscriminatorOutput:
        """Score a batch.

        Args:
            volume: [B, C, H, W, D] on the network scale.
            offset: first slice of each plane; pass the iteration number and every slice gets its turn.

        Returns:
            Logits and features of up to four views. Slices are not random: an equal offset gives equal slices, so real
            and fake can be compared layer by layer.

        Raises:
            ValueError: if a side is too short for the number of layers.
        """
        if min(volume.shape[2:]) < self.min_side:
            raise ValueError(
                f"volume {tuple(volume.shape[2:])} has a side under {self.min_side} voxels, the least for this "
                "number of discriminator layers; enlarge the patch or lower num_layers (each layer less halves it)"
            )
        views = [] if self.volume is None else [self.volume(volume)]
        if self.slices is not None:
            # One view per plane even where the planes have equal sides: the weight of a view never hangs on the patch.
            views += [self.slices(take_slices(volume, axis, self.num_slices, offset)) for axis in (2, 3, 4)]
        return DiscriminatorOutput([layers[-1] for layers in views], [layers[:-1] for layers in views])


def _limit(critic: PatchDiscriminator, max_channels: int) -> None:
    """Make the layers anew that MONAI, which doubles them on and on, has made wider."""
    for layer in critic.children():
        conv = layer.conv
        ends = [min(width, max_channels) for width in (conv.in_channels, conv.out_channels)]
        if ends == [conv.in_channels, conv.out_channels]:
            continue
        bias = conv.bias is not None
        layer.conv = type(conv)(*ends, conv.kernel_size, conv.stride, conv.padding, bias=bias)
        if hasattr(layer, "adn"):
            layer.adn.N = type(layer.adn.N)(ends[1])
        layer.apply(normal_init)


def min_side(num_layers: int) -> int:
    """Shortest side of a patch, in voxels.

    num_layers halvings, then two kernels of 4 that each take one position away: 3 positions become 2, then 1 logit.
    Below 3 the instance norm before the logits would see a single element, which it refuses.
    """
    return 3 * 2**num_layers


def take_slices(volume: Tensor, axis: int, count: int, offset: int = 0) -> Tensor:
    """Cut evenly spaced slices across one axis, at ``(offset + i * side // count) mod side``.

    Args:
        volume: [B, C, H, W, D].
        axis: 2, 3 or 4.
        count: number of slices; the side of the axis if that is less, so that no slice comes twice.
        offset: position of the first slice; it wraps round.

    Returns:
        Slices [B*S, C, a, b], those of a sample side by side.
    """
    side = volume.shape[axis]
    count = min(count, side)
    # Positions are computed on the volume's device: a list of them would have to be copied there, and waited for.
    positions = (offset + torch.arange(count, device=volume.device) * side // count) % side
    return volume.index_select(axis, positions).movedim(axis, 1).flatten(0, 1)
