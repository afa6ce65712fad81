import sys

import numpy as np
import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.rivals import CODECS
from ctpa_vqgan.rivals.codecs import encode_at_rates, rate


class OneBitPerQuality:
    """A codec of known rate: 2 ** quality bits per voxel, a tenth more in volumes of more than 16 slices."""

    qualities = (0, 1, 3, 6)

    def __init__(self):
        self.encoded = []

    def encode(self, volume, quality):
        self.encoded.append((volume.shape, quality))
        bits = np.prod(volume.shape) * 2**quality * (1.1 if volume.shape[2] > 16 else 1)
        return [bytes(round(bits / 8))]


def test_at_high_quality_hu_come_back_without_bias(codec, scan):
    packets = codec.encode(scan, codec.qualities[-1])
    back = codec.decode(packets, scan.shape)  # of sides that are odd, and below the 64 that x265 bears
    error = back.astype(float) - scan.clip(-1000, 1000)
    assert back.dtype == np.int16 and abs(error.mean()) < 0.5 and error.std() < 6


@pytest.mark.parametrize("hu, expected", [(-3024, -1000), (-1000, -1000), (0, 0), (1000, 1000), (3071, 1000)])
def test_hu_keep_their_place(codec, hu, expected):
    flat = np.full((32, 32, 2), hu, np.int16)
    back = codec.decode(codec.encode(flat, codec.qualities[-1]), flat.shape)
    assert abs(back - expected).max() <= 1


def test_fewer_bits_are_more_error(codec, scan):
    streams = [codec.encode(scan, quality) for quality in codec.qualities]
    bits = [rate(packets, scan.shape) for packets in streams]
    errors = [np.square(codec.decode(s, scan.shape) - scan.clip(-1000, 1000).astype(float)).mean() for s in streams]
    assert bits == sorted(bits) and bits[-1] > 4 * bits[0]
    assert errors == sorted(errors, reverse=True)


def test_tiny_volumes_can_be_coded(codec):
    tiny = np.arange(5 * 3, dtype=np.int16).reshape(5, 3, 1)
    assert abs(codec.decode(codec.encode(tiny, codec.qualities[-1]), tiny.shape) - tiny).max() <= 4


def test_the_wanted_rate_is_met(codec, scan):
    wanted = 1.5
    found = [rate(packets, scan.shape) for _, packets, _ in encode_at_rates(codec, scan, wanted, (0.5, 2))]
    assert found[0] == pytest.approx(wanted, rel=0.05)
    assert found[1] < found[0] < found[2]


def test_a_codec_prints_nothing(codec, scan, capfd):
    codec.decode(codec.encode(scan, codec.qualities[0]), scan.shape)
    assert capfd.readouterr() == ("", "")


def test_a_first_stream_off_the_rate_corrects_the_others():
    volume, codec = np.zeros((8, 8, 40), np.int16), OneBitPerQuality()
    found = [rate(packets, volume.shape) for _, packets, _ in encode_at_rates(codec, volume, 4.0, (1 / 2, 2))]
    assert found == pytest.approx([4.0, 2.0, 8.0], rel=0.01)
    assert [quality for shape, quality in codec.encoded if shape == volume.shape][:2] == [2.0, 1.86]


def test_a_rate_out_of_reach_gives_the_nearest_once():
    codec = OneBitPerQuality()
    found = list(encode_at_rates(codec, np.zeros((8, 8, 4), np.int16), 1000.0, (2, 4)))
    assert [quality for quality, _, _ in found] == [6.0]


@pytest.mark.parametrize("name, package", [("hevc", "av"), ("jpeg2000", "imagecodecs")])
def test_a_missing_package_is_named_with_the_way_out(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"not installed; pip install 'ctpa_vqgan\[codecs\]'"):
        CODECS[name]()
