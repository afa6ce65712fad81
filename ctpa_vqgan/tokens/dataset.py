"""Code files as a PyTorch data set: what a generative model trains on, one volume or one random crop per item."""

# E embedding, K codes, h w d latent positions of a volume or a crop

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.tokens.container import refuse
from ctpa_vqgan.tokens.fingerprint import network_fingerprint
from ctpa_vqgan.tokens.grid import latent_shape
from ctpa_vqgan.tokens.volume import EncodedVolume

# what must be equal for a code to mean the same in every file
COMMON = ("network", "num_embeddings", "factor", "hu_window")
Files = str | os.PathLike | Sequence[str | os.PathLike]
Embedding = nn.Module | torch.Tensor | np.ndarray
Embed = Callable[[torch.Tensor], torch.Tensor]  # codes [B, h, w, d] -> vectors [B, E, h, w, d]
CHUNK = 2**16  # codes whose vectors are in memory at a time


class LatentStatistics(NamedTuple):
    """Mean and standard deviation per channel, to bring latents to the scale of the noise and back.

    Attributes:
        mean: [E] float32.
        std: [E] float32, positive.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def standardize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [..., E, h, w, d] to mean 0 and standard deviation 1."""
        return (latents - self._column(self.mean, latents)) / self._column(self.std, latents)

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`standardize`, for what a model has sampled."""
        return latents * self._column(self.std, latents) + self._column(self.mean, latents)

    @staticmethod
    def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return values.to(like)[:, None, None, None]


class CodesDataset(Dataset):
    """Code files of one network, one item per file and epoch; a file is opened for its item and not kept.

    Items are dictionaries of plain values that PyTorch's default collation takes:

    * ``codes`` [h, w, d] int64, or with ``latents`` instead ``latents`` [E, h, w, d] float32;
    * ``case``: the file's name without suffix;
    * ``position`` [3] int64: where the crop begins in the volume's latent grid;
    * ``shape`` [3] int64: sides of the volume's whole latent grid.

    A crop is a function of (seed, epoch, index) alone: the same for any number of workers, persistent ones too. Without
    ``crop``, volumes of different sizes need ``batch_size=1``.

    Args:
        files: a folder of ``.npz`` code files (its files alone, by name), or a list of files.
        crop: sides of a random crop in latent positions; None gives whole volumes. A volume smaller than the crop is
            refused: no code stands for "nothing", so padding would be learned as anatomy.
        latents: give latents instead of codes, for diffusion models.
        standardize: scale latents by ``statistics``.
        seed: of the crops.
        embed: the network, or its codebook [K, E]; latents are then the codes' vectors, as
            ``encode_stage_2_inputs`` gives them. None takes the continuous latents that the files hold.
        statistics: mean and standard deviation to standardize by, those of the training set for any other set. None
            takes those in the files if all files tell the same, and else :func:`latent_statistics` of the files.

    Attributes:
        files: paths, in order.
        statistics: what latents were standardized by; None if they were not.

    Raises:
        UserError: names the first file that is no code file, is of another network than the others, is smaller than
            the crop, or has no latents where they are wanted.
        ValueError: if ``crop`` or the codebook does not fit.

    Example:
        >>> data = CodesDataset("codes", crop=(32, 32, 32), latents=True, embed=network)  # doctest: +SKIP
        >>> for epoch in range(100):  # doctest: +SKIP
        ...     data.set_epoch(epoch)
        ...     for batch in DataLoader(data, batch_size=4, shuffle=True, num_workers=2): ...
    """

    def __init__(
        self,
        files: Files,
        crop: Sequence[int] | None = None,
        latents: bool = False,
        standardize: bool = True,
        seed: int = 0,
        embed: Embedding | None = None,
        statistics: LatentStatistics | None = None,
    ) -> None:
        self.files = code_files(files)
        self.crop, self.latents, self.seed = _checked_crop(crop), latents, seed
        headers = _common_headers(self.files)
        self.network: str = headers[0]["network"]
        self.shapes = [latent_shape(header["shape"], header["factor"]) for header in headers]
        self._check_sizes()
        self._embed = _checked_embed(embed, self.files[0], headers[0]) if latents and embed is not None else None
        if latents and self._embed is None:
            _check_latents(self.files, headers)
        self.statistics: LatentStatistics | None = None
        if latents and standardize:
            self.statistics = statistics or self._told(headers) or latent_statistics(self.files, embed)
        # shared, so that workers that outlive an epoch hear of the next one
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops; call it before each iteration over a loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        volume = EncodedVolume.load(self.files[index], self.network)
        start, size = self._window(index)
        window = tuple(slice(s, s + n) for s, n in zip(start, size))
        item = (
            {"latents": self._latents(volume, window)} if self.latents else {"codes": _integers(volume.codes[window])}
        )
        position, shape = torch.tensor(start), torch.tensor(self.shapes[index])
        return {**item, "case": self.files[index].stem, "position": position, "shape": shape}

    def _window(self, index: int) -> tuple[list[int], tuple[int, ...]]:
        """Start and size of an item."""
        shape = self.shapes[index]
        if self.crop is None:
            return [0, 0, 0], shape
        draw = np.random.default_rng([self.seed, int(self._epoch), index])
        return [int(draw.integers(side - n + 1)) for side, n in zip(shape, self.crop)], self.crop

    @torch.no_grad()
    def _latents(self, volume: EncodedVolume, window: tuple[slice, ...]) -> torch.Tensor:
        if self._embed is None:
            values = torch.from_numpy(volume.latents[(slice(None), *window)].astype(np.float32))
        else:
            values = self._embed(_integers(volume.codes[window])[None])[0].float().contiguous()
        return self.statistics.standardize(values) if self.statistics else values

    def _check_sizes(self) -> None:
        for path, shape in zip(self.files, self.shapes):
            if self.crop is not None and any(n > side for n, side in zip(self.crop, shape)):
                raise refuse(
                    path,
                    f"a latent grid of at least the crop {self.crop}",
                    str(shape),
                    "take a smaller crop or leave it out",
                )

    def _told(self, headers: Sequence[dict]) -> LatentStatistics | None:
        """The statistics of continuous latents, if all files hold the same."""
        told = [(header.get("latent_mean"), header.get("latent_std")) for header in headers]
        if self._embed is not None or told[0][0] is None or any(other != told[0] for other in told):
            return None
        return LatentStatistics(*(torch.tensor(values, dtype=torch.float32) for values in told[0]))


def latent_statistics(files: Files, embed: Embedding | None = None) -> LatentStatistics:
    """Mean and standard deviation of every latent channel over code files; one file is in memory at a time.

    Args:
        files: as for :class:`CodesDataset`.
        embed: the network or its codebook [K, E], for the codes' vectors; None for the files' continuous latents.

    Returns:
        Statistics over all positions of all files; a constant channel gets a standard deviation of 1.

    Raises:
        UserError: as :class:`CodesDataset`.
    """
    files = code_files(files)
    headers = _common_headers(files)
    if embed is None:
        _check_latents(files, headers)
        moments = sum(_moments(EncodedVolume.load(path).latents) for path in files)
    else:
        vectors_of = _checked_embed(embed, files[0], headers[0])
        moments = sum(_moments_of_codes(EncodedVolume.load(path).codes, vectors_of) for path in files)
    number, total, squares = moments
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0))
    std[std < 1e-6 * (1 + np.abs(mean))] = 1
    return LatentStatistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())


def code_files(files: Files) -> list[Path]:
    """The code files of a folder by name, or the listed ones as they are.

    Raises:
        UserError: if there is none.
    """
    if not isinstance(files, (str, os.PathLike)):
        found = [Path(path) for path in files]
    elif Path(files).is_dir():
        # a name with a dot in front is a file in the making
        found = sorted(path for path in Path(files).glob("*.npz") if not path.name.startswith("."))
    else:
        found = [Path(files)]
    if not found:
        raise UserError(f"{files}: expected code files, found none that ends in .npz; encode volumes first")
    return found


def _checked_crop(crop: Sequence[int] | None) -> tuple[int, ...] | None:
    if crop is None:
        return None
    if len(crop) != 3 or min(crop) < 1:
        raise ValueError(f"crop must be three positive numbers of latent positions, found {tuple(crop)}")
    return tuple(int(n) for n in crop)


def _common_headers(files: Sequence[Path]) -> list[dict]:
    """Headers of files in which a code means the same."""
    headers = [EncodedVolume.header(path) for path in files]
    for path, header in zip(files, headers):
        for name in COMMON:
            if header[name] != headers[0][name]:
                expected = f"{name} {_short(headers[0][name])} as in {files[0].name}"
                raise refuse(path, expected, _short(header[name]), "take files that one network encoded alike")
    return headers


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) else str(value)


def _check_latents(files: Sequence[Path], headers: Sequence[dict]) -> None:
    for path, header in zip(files, headers):
        if not header["has_latents"]:
            raise refuse(path, "continuous latents", "codes alone", "give embed=network to take the codes' vectors")


def _checked_embed(embed: Embedding, path: Path, header: dict) -> Embed:
    """From codes to vectors on the CPU, by the network that made the file or by a codebook."""
    number = header["num_embeddings"]
    if isinstance(embed, nn.Module):
        if (fingerprint := network_fingerprint(embed)) != header["network"]:
            raise refuse(
                path,
                f"codes of the network given as embed, {_short(fingerprint)}",
                f"those of {_short(header['network'])}",
                "load the model.pt and model.yaml that encoded it",
            )
        # by the quantizer's own embed, for the codes that come: a table of all is 2 GiB with two books of 8192
        return copy.deepcopy(embed.quantizer).cpu().embed
    table = torch.as_tensor(embed).detach().float().cpu()
    if table.ndim != 2 or len(table) != number:
        raise ValueError(f"embed must be a network or a codebook [{number}, E], found {tuple(table.shape)}")
    return functools.partial(_look_up, table)


def _look_up(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return table[codes].movedim(-1, 1)


def _integers(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(codes.astype(np.int64))


def _moments(latents: np.ndarray) -> np.ndarray:
    """Number, sum and sum of squares per channel: [3, E] float64."""
    flat = latents.reshape(len(latents), -1)
    sums = [
        (channel.size, channel.sum(dtype=np.float64), np.square(channel, dtype=np.float64).sum()) for channel in flat
    ]
    return np.array(sums).T


@torch.no_grad()
def _moments_of_codes(codes: np.ndarray, embed: Embed) -> np.ndarray:
    """:func:`_moments` of the codes' vectors; each code that occurs is looked up once."""
    moments = 0.0
    found, counts = np.unique(codes, return_counts=True)
    for start in range(0, len(found), CHUNK):
        part, weights = _integers(found[start : start + CHUNK]), counts[start : start + CHUNK].astype(np.float64)
        vectors = embed(part.view(1, -1, 1, 1))[0, :, :, 0, 0].double().numpy()  # [E, codes]
        moments = moments + np.stack([np.ones_like(vectors) @ weights, vectors @ weights, vectors**2 @ weights])
    return moments
