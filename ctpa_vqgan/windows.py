"""The display windows in which a CT pulmonary angiogram is read, for losses and pictures alike."""

from typing import NamedTuple


class Window(NamedTuple):
    """What a screen shows from black (level - width / 2) to white (level + width / 2), in HU."""

    level: float
    width: float


WINDOWS = {"pe": Window(100, 700), "lung": Window(-600, 1500), "mediastinum": Window(40, 400)}
