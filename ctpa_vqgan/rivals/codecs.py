"""HEVC and JPEG 2000: what hospitals and televisions have for the same bits.

Both need the optional packages of ``pip install 'ctpa_vqgan[codecs]'``, which are imported when a codec is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.metrics.slabs import read_slab, slabs
from ctpa_vqgan.rivals.resampled import HU_RANGE

STEPS_PER_HU = 2  # 0..4000 fills 12 bits and loses nothing; with 1, x265 ends (crf 0) an octave of rates earlier
SAMPLE_BITS = 12
SAMPLE_SLICES = 16  # of the middle, from which rates are foretold
TOLERANCE = 1.05  # of the rate that matters most
MAX_TRIES = 3
WAY_OUT = "pip install 'ctpa_vqgan[codecs]'"


class Codec(Protocol):
    """Turns a volume in HU into packets of bytes and back.

    Attributes:
        name: as the report calls it.
        qualities: settings from the fewest bits to the most.
    """

    name: str
    qualities: Sequence[float]

    def setting(self, quality: float) -> str:
        """What was set, for the report."""

    def encode(self, volume: Any, quality: float) -> list[bytes]:
        """[X, Y, Z] in HU -> packets. HU are clipped to -1000..1000 and rounded to steps of half a HU."""

    def decode(self, packets: list[bytes], shape: Sequence[int]) -> np.ndarray:
        """Packets -> int16 [X, Y, Z], whole HU."""


class Hevc:
    """H.265 by x265 through PyAV, 12 bit grey, slices as the frames of a film.

    Preset medium, tuned for PSNR, at a constant rate factor (crf), which may be a fraction, so that any rate can be
    met. One frame at a time, as the number of frame threads (by default that of the cores) changes the stream; the
    text about its settings that x265 puts into the stream is left out.

    Raises:
        UserError: if PyAV is not there, or was built without x265.
    """

    name = "HEVC"
    qualities = (51, 40, 30, 20, 10, 0)
    _least_side = 64  # one coding unit; the lookahead of x265 4.2 writes beyond its memory for smaller pictures

    def __init__(self) -> None:
        try:
            import av
        except ImportError as error:
            raise UserError(f"HEVC needs PyAV, which is not installed; {WAY_OUT}") from error
        if "libx265" not in av.codecs_available:
            raise UserError(f"HEVC needs x265, found a PyAV {av.__version__} without it; use PyPI's: {WAY_OUT}")
        self._av = av

    def setting(self, quality: float) -> str:
        """As of ffmpeg."""
        return f"x265 gray12 medium, tune psnr, crf {quality:.2f}"

    def encode(self, volume: Any, quality: float) -> list[bytes]:
        """See :class:`Codec`. Odd sides, and those below 64, are padded by repeating the edge."""
        sides = [max(side + side % 2, self._least_side) for side in volume.shape[:2]]
        pads = [(0, padded - side) for padded, side in zip(sides, volume.shape)]
        encoder = self._av.CodecContext.create("libx265", "w")
        encoder.height, encoder.width = sides
        encoder.pix_fmt, encoder.time_base, encoder.framerate = "gray12le", Fraction(1, 25), Fraction(25)
        params = f"crf={quality:.2f}:frame-threads=1:info=0:log-level=none"
        encoder.options = {"preset": "medium", "tune": "psnr", "x265-params": params}
        packets = []
        for z, samples in enumerate(_samples(volume)):
            frame = self._av.VideoFrame.from_ndarray(np.pad(samples, pads, mode="edge"), format="gray12le")
            frame.pts = z
            packets += encoder.encode(frame)
        return [bytes(packet) for packet in (*packets, *encoder.encode(None))]

    def decode(self, packets: list[bytes], shape: Sequence[int]) -> np.ndarray:
        """See :class:`Codec`."""
        decoder = self._av.CodecContext.create("hevc", "r")
        volume, num_slices = np.empty(shape, np.int16), 0
        for packet in (*map(self._av.Packet, packets), None):  # the last takes out what is still held back
            for frame in decoder.decode(packet):
                volume[..., num_slices] = _hu(frame.to_ndarray()[: shape[0], : shape[1]])
                num_slices += 1
        assert num_slices == shape[2], f"{num_slices} of {shape[2]} slices came back"
        return volume


class Jpeg2000:
    """JPEG 2000 by OpenJPEG through imagecodecs, slice by slice: what DICOM archives use.

    Irreversible 9/7 wavelets, every slice at the same PSNR, which spends bits where the error needs them. A packet is
    a bare codestream, with a header of about 0.1 kB (0.004 bit per voxel of 512 x 512).

    Raises:
        UserError: if imagecodecs is not there, or was built without OpenJPEG.
    """

    name = "JPEG 2000"
    qualities = (15, 25, 35, 45, 55, 65, 75)

    def __init__(self) -> None:
        try:
            import imagecodecs
        except ImportError as error:
            raise UserError(f"JPEG 2000 needs imagecodecs, which is not installed; {WAY_OUT}") from error
        if not imagecodecs.JPEG2K.available:
            raise UserError(f"JPEG 2000 needs OpenJPEG, found an imagecodecs without it; use PyPI's: {WAY_OUT}")
        self._imagecodecs = imagecodecs

    def setting(self, quality: float) -> str:
        """PSNR of the peak of 12 bits, not of 2000 HU."""
        return f"OpenJPEG 9/7, slice by slice, level {quality:.2f} dB"

    def encode(self, volume: Any, quality: float) -> list[bytes]:
        """See :class:`Codec`."""
        how = {"level": round(quality, 2), "bitspersample": SAMPLE_BITS, "reversible": False, "codecformat": "j2k"}
        return [bytes(self._imagecodecs.jpeg2k_encode(s, numthreads=1, **how)) for s in _samples(volume)]

    def decode(self, packets: list[bytes], shape: Sequence[int]) -> np.ndarray:
        """See :class:`Codec`."""
        volume = np.empty(shape, np.int16)
        for z, packet in enumerate(packets):
            volume[..., z] = _hu(self._imagecodecs.jpeg2k_decode(packet, numthreads=1)).reshape(shape[:2])
        return volume


CODECS = {"hevc": Hevc, "jpeg2000": Jpeg2000}


def can_be_made(name: str) -> bool:
    """Whether a codec's packages are there, by the name that the report gives it."""
    for codec in CODECS.values():
        if codec.name == name:
            try:
                codec()
            except UserError:
                return False
            return True
    return False


def encode_at_rates(
    codec: Codec, volume: Any, bits_per_voxel: float, factors: Sequence[float]
) -> Iterator[tuple[float, list[bytes], float]]:
    """Encode a volume at about ``bits_per_voxel``, then at multiples of it.

    Rates of the middle 16 slices at the codec's ``qualities`` tell which quality to take. The first stream is made
    anew, up to three times, until it is within 5 % of ``bits_per_voxel`` or the codec goes no further; for the others
    what it taught must do.

    Args:
        codec: which.
        volume: [X, Y, Z], HU.
        bits_per_voxel: rate to be met.
        factors: of the rates to follow.

    Yields:
        Quality, packets and seconds (wall-clock, of that encoding) of each stream; no quality twice.
    """
    first = (volume.shape[2] - min(SAMPLE_SLICES, volume.shape[2])) // 2
    sample = volume[..., first : first + SAMPLE_SLICES]
    foretold = [math.log2(rate(codec.encode(sample, quality), sample.shape)) for quality in codec.qualities]
    foretold = np.maximum.accumulate(foretold)  # of a volume of nothing all rates are alike, give or take a byte
    shift = 0.0  # how many octaves the whole volume takes more than the sample

    def quality_for(wanted: float) -> float:
        return round(float(np.interp(math.log2(wanted) - shift, foretold, codec.qualities)), 2)

    def timed(quality: float) -> tuple[float, list[bytes], float]:
        clock = time.perf_counter()
        return quality, codec.encode(volume, quality), time.perf_counter() - clock

    tried = {}
    for _ in range(MAX_TRIES):
        quality = quality_for(bits_per_voxel)
        if quality in tried:
            break
        stream = timed(quality)
        found = rate(stream[1], volume.shape)
        tried[quality] = abs(math.log2(found / bits_per_voxel))
        if tried[quality] <= min(tried.values()):
            best = stream
        if tried[quality] <= math.log2(TOLERANCE):
            break
        by_quality = sorted(zip(codec.qualities, foretold))  # a crf falls as the rate grows
        shift = math.log2(found) - float(np.interp(quality, *zip(*by_quality)))
    yield best
    done = {best[0]}
    for factor in factors:
        quality = quality_for(factor * bits_per_voxel)
        if quality not in done:
            done.add(quality)
            yield timed(quality)


def rate(packets: list[bytes], shape: Sequence[int]) -> float:
    """Bits per voxel of a stream."""
    return 8 * sum(map(len, packets)) / math.prod(shape)


def _samples(volume: Any) -> Iterator[np.ndarray]:
    """Slices [X, Y] of uint16, 0..4000."""
    low, high = HU_RANGE
    for start, stop in slabs(volume.shape[2]):
        slab = read_slab(volume, start, stop, "cpu").clamp(low, high).sub_(low).mul_(STEPS_PER_HU).round_()
        for samples in slab.to(torch.int32).numpy().astype(np.uint16).transpose(2, 0, 1):
            yield np.ascontiguousarray(samples)


def _hu(samples: np.ndarray) -> np.ndarray:
    """Whole HU of samples; a codec may go a little beyond 0..4000."""
    low, high = HU_RANGE
    return np.rint(samples / STEPS_PER_HU + low).clip(low, high).astype(np.int16)
