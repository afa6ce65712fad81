"""A dark figure on which panels are placed by inches: the drawing half of ``montage.png``."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

DPI = 100
INK, PAPER = "#e8e8e8", "#101114"
# one colour and line for each version of a volume, wherever it is drawn; dashes show a line below
VERSION_COLOURS = {"reconstruction": "#56b4e9", "decoded": "#f2a541"}
VERSION_LINES = {"reconstruction": "-", "decoded": (0, (4, 3))}
ON_IMAGE = {"color": INK, "fontsize": 11, "bbox": {"facecolor": PAPER, "alpha": 0.6, "linewidth": 0, "pad": 2}}


class Sheet:
    """A page of ``width`` x ``height`` inches; every place is given in inches from its top left corner.

    Matplotlib's object interface on the Agg canvas: no pyplot, no display, no global state. It is imported here and not
    at the top, as it takes a second that ``--help`` need not wait.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float):
        """Empty axes."""
        return self.figure.add_axes(
            (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        )

    def chart(self, left: float, top: float, width: float, height: float, xlabel: str, ylabel: str):
        """Empty axes for curves, in the page's colours."""
        axes = self.axes(left, top, width, height)
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=INK, which="both", labelsize=11)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        axes.set_xlabel(xlabel, color=INK, fontsize=12)
        axes.set_ylabel(ylabel, color=INK, fontsize=12)
        return axes

    def text(self, left: float, top: float, text: str, **style) -> None:
        """A line of text; a dollar sign is a dollar sign, as file names go."""
        style = {"color": INK, "fontsize": 13, "parse_math": False, **style}
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)

    def panel(
        self, box: tuple[float, ...], image: np.ndarray, size_mm: tuple[float, float], letters: Sequence[str], **style
    ):
        """A picture in true proportions within ``box``, with the sides' letters."""
        axes = self.axes(*box)
        axes.set_axis_off()
        shown = axes.imshow(image, extent=(0, size_mm[0], 0, size_mm[1]), **style)
        for x, letter, side in ((0.012, letters[0], "left"), (0.988, letters[1], "right")):
            axes.text(x, 0.5, letter, ha=side, va="center", transform=axes.transAxes, **ON_IMAGE)
        return shown

    def scale(self, box: tuple[float, ...], shown, ticks: Sequence[int]) -> None:
        """The colour bar of a panel in HU."""
        axes = self.axes(*box)
        bar = self.figure.colorbar(shown, cax=axes, extend="both", ticks=ticks)
        bar.outline.set_visible(False)
        axes.set_yticklabels([*map(str, ticks[:-1]), f"{ticks[-1]} HU"])
        axes.tick_params(colors=INK, labelsize=11)

    def pixels(self, width: int) -> np.ndarray:
        """The page as [rows, columns, 3] bytes, ``width`` columns wide."""
        self.figure.set_dpi(width / self.width)
        self.figure.canvas.draw()
        return np.asarray(self.figure.canvas.buffer_rgba())[..., :3].copy()

    def png(self) -> bytes:
        """The page as a PNG file's content; 7 bits a colour, as the eighth is noise and a fifth of the file."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels(round(self.width * DPI)) & 0xFE).save(buffer, format="png")
        return buffer.getvalue()
