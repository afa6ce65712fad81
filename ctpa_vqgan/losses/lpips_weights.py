"""Reading VGG16 and the LPIPS heads from one local file, whichever of the common names its tensors have."""

import re
from pathlib import Path

import torch
from torch import Tensor

BLOCKS = (((0, 2), 64), ((5, 7), 128), ((10, 12, 14), 256), ((17, 19, 21), 512), ((24, 26, 28), 512))
"""VGG16 up to relu5_3 (Simonyan & Zisserman 2015, arXiv 1409.1556): for each of its five blocks, the places of the
convolutions in torchvision's ``features`` and their channels. A 2 x 2 max pool stands between blocks."""


def load_lpips_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the 31 tensors of LPIPS by their torchvision and lpips names; what else the file holds is left out.

    The file is a dict of tensors named as torchvision (``features.N.weight``) and lpips (``lin0.model.1.weight``) name
    them, or as medicaldiffusion checkpoints do (``net.slice1.N.weight``, with or without ``perceptual_model.`` before
    it), if need be under the key ``"state_dict"``. From the two public files it is made by::

        vgg, lins = torch.load("vgg16-397923af.pth"), torch.load("lpips/weights/v0.1/vgg.pth")
        torch.save({**vgg, **lins}, "lpips_vgg16.pt")

    Args:
        path: that file; read with ``weights_only=True``, so it cannot run code.

    Returns:
        13 convolutions (weight and bias) and 5 linear heads [1, channels, 1, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or a tensor is missing or has another shape.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no LPIPS weights file {path}; losses download nothing, see ctpa_vqgan.losses.LPIPS")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its reader raises of every kind on other bytes
        raise ValueError(
            f"{path} is not a file of tensors only ({type(error).__name__}); save a dict of tensors with torch.save"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    found = {_canonical(name): value for name, value in content.items() if isinstance(value, Tensor)}
    expected = _expected_shapes()
    if missing := [name for name in expected if name not in found]:
        raise ValueError(
            f"{path} lacks {len(missing)} of {len(expected)} LPIPS tensors, first {missing[0]!r}; "
            f"it holds {len(found)} tensors: {sorted(found)[:5]}"
        )
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise ValueError(f"{path}: {name} has shape {tuple(found[name].shape)}, expected {shape}")
    return {name: found[name] for name in expected}


def _expected_shapes() -> dict[str, tuple[int, ...]]:
    shapes, before = {}, 3
    for block, (indices, channels) in enumerate(BLOCKS):
        for i in indices:
            shapes[f"features.{i}.weight"], shapes[f"features.{i}.bias"] = (channels, before, 3, 3), (channels,)
            before = channels
        shapes[f"lin{block}.model.1.weight"] = (1, channels, 1, 1)
    return shapes


def _canonical(name: str) -> str:
    return re.sub(r"^net\.slice\d\.", "features.", str(name).removeprefix("perceptual_model."))
