"""Put a picture file into a page: small enough to send, whole enough to read."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

MAX_WIDTH = 1800  # pixels
AS_IT_IS = 120_000  # bytes: a PNG below keeps every pixel
GOAL = 300_000  # bytes of a larger picture
QUALITIES = (88, 80, 70, 60)  # the first that stays below the goal, or the last


class Embedded(NamedTuple):
    """A picture as a ``data:`` address, with its size in pixels."""

    address: str
    width: int
    height: int


def embed(path: Path) -> Embedded:
    """Read a picture and code it anew as WebP of about 300 kB, as JPEG where Pillow was built without WebP.

    Args:
        path: picture of any format that Pillow reads; a PNG below 120 kB stays as it is.

    Raises:
        OSError: if it is missing or no picture.
    """
    from PIL import Image, features

    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        kind, size = image.format.lower(), image.size
        if kind != "png" or len(content) > AS_IT_IS:
            kind = "webp" if features.check("webp") else "jpeg"
            small = image.convert("RGB")
            small.thumbnail((MAX_WIDTH, 4 * MAX_WIDTH))
            size = small.size
            for quality in QUALITIES:
                buffer = io.BytesIO()
                small.save(buffer, kind, quality=quality)
                content = buffer.getvalue()
                if len(content) <= GOAL:
                    break
    return Embedded(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", *size)
