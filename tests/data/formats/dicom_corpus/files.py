"""Write images into files, plain or compressed, and cut what was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.uid import UID


def write(
    slices: Iterable[FileDataset],
    folder: Path,
    name: str = "IM{:04d}.dcm",
    syntax: UID | None = None,
) -> list[Path]:
    """Write images under numbered names; other transfer syntaxes than the compressed ones are made on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, one in enumerate(slices):
        if syntax is not None:
            one.file_meta.TransferSyntaxUID = syntax
        used = one.file_meta.TransferSyntaxUID
        if "PixelData" in one:
            one["PixelData"].VR = "OB" if used.is_compressed and not used.is_deflated else "OW"
            if not used.is_little_endian:
                one.PixelData = np.frombuffer(one.PixelData, np.int16).byteswap().tobytes()
        paths.append(folder / name.format(index + 1))
        encoding = {"implicit_vr": used.is_implicit_VR, "little_endian": used.is_little_endian}
        dcmwrite(paths[-1], one, **encoding, force_encoding=True)
    return paths


def compress(slices: list[FileDataset], hu: np.ndarray, codec: str, scratch: Path) -> None:
    """Put the HU in as JPEG or JPEG 2000, both lossless, as GDCM writes them."""
    import itk

    path = scratch / "compressed.dcm"
    for k, one in enumerate(slices):
        image = itk.image_from_array(np.ascontiguousarray((hu[:, :, k].T.astype(int) + 1024).astype(np.uint16)))
        io, writer = itk.GDCMImageIO.New(), itk.ImageFileWriter[type(image)].New()
        io.SetCompressionType(getattr(itk.GDCMImageIOEnums, f"Compression_{codec}"))
        writer.SetImageIO(io)
        writer.SetUseCompression(True)
        writer.SetFileName(str(path))
        writer.SetInput(image)
        writer.Update()
        written = dcmread(path)
        one.PixelRepresentation, one.PixelData = 0, written.PixelData
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    path.unlink()


def cut(path: Path, num_bytes: int) -> None:
    """Leave the first bytes of a file only; of a negative number all but so many."""
    path.write_bytes(path.read_bytes()[:num_bytes])


def without_start(path: Path, pattern: bytes) -> None:
    """Drop what comes before a pattern: preamble, or the meta header too."""
    content = path.read_bytes()
    path.write_bytes(content[content.index(pattern) :])
