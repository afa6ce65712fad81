"""Files whose gzip stream is damaged, or is not what the name promises."""

from __future__ import annotations

from corpus.damage import TEXT, flip, members, same, swap, zero
from corpus.kinds import UNREADABLE, in_gz, in_nii, in_raw_gz
from corpus.nifti import nifti, whole
from corpus.voxels import garbage

COMPRESSION = {
    "bit-flip-early": in_raw_gz("gzip", lambda: flip(whole(), 600)),
    "bit-flip-in-the-middle": in_raw_gz("gzip", lambda: flip(whole(), 0.5)),
    "bit-flip-late": in_raw_gz("gzip", lambda: flip(whole(), -30)),
    "bit-flip-in-the-gzip-magic": in_raw_gz("gzip extension unreadable", lambda: flip(whole(), 0)),
    "bit-flip-in-the-gzip-method": in_raw_gz("gzip unreadable", lambda: flip(whole(), 2)),
    "truncated-in-the-gzip-header": in_raw_gz("gzip unreadable header", lambda: whole()[:6]),
    "truncated-in-the-nifti-header": in_raw_gz("gzip", lambda: whole()[:90]),
    "truncated-early": in_raw_gz("gzip", lambda: whole()[:3000]),
    "truncated-half": in_raw_gz("gzip", lambda: whole()[: len(whole()) // 2]),
    "truncated-late": in_raw_gz("gzip", lambda: whole()[:-60]),
    "gzip-trailer-cut": in_raw_gz("gzip", lambda: whole()[:-8]),
    "gzip-trailer-half-cut": in_raw_gz("gzip", lambda: whole()[:-3]),
    "gzip-checksum-only": in_raw_gz("gzip", lambda: flip(whole(), -6)),
    "gzip-length-only": in_raw_gz("gzip", lambda: flip(whole(), -2)),
    "zeroed-block": in_raw_gz("gzip", lambda: zero(whole(), 20 * 4096)),
    "zeroed-first-block": in_raw_gz("gzip extension unreadable", lambda: zero(whole(), 0)),
    "zeroed-last-block": in_raw_gz("gzip", lambda: zero(whole(), len(whole()) // 4096 * 4096)),
    "swapped-blocks": in_raw_gz("gzip", lambda: swap(whole())),
    "inserted-bytes": in_raw_gz("gzip", lambda: whole()[:70000] + bytes(4) + whole()[70000:]),
    "text-after-the-gzip-stream": in_raw_gz("gzip", lambda: whole() + TEXT),
    "bytes-after-the-gzip-stream": in_raw_gz("gzip", lambda: whole() + garbage("u1").tobytes()[:5000]),
    "second-member-damaged": in_raw_gz("gzip", lambda: members(same, lambda data: flip(data, 0.5))),
    "second-member-truncated": in_raw_gz("gzip", lambda: members(same, lambda data: data[:-500])),
    "first-member-checksum": in_raw_gz("gzip", lambda: members(lambda data: flip(data, -6), same)),
    "second-member-missing": in_raw_gz("payload", lambda: members(same)),
    "whole-file-twice": in_raw_gz("payload", lambda: whole() + whole()),
    "gzip-named-nii": in_nii("extension", whole),
    "nii-named-gzip": in_raw_gz("extension", nifti),
    "gzip-in-gzip": in_gz(UNREADABLE + " extension", whole),
    "gzip-of-nothing": in_gz(UNREADABLE + " payload", bytes),
}
