"""Volumes to code files and back, case by case."""

from ctpa_vqgan.transcode.decode import decode_files
from ctpa_vqgan.transcode.encode import encode_cases

__all__ = ["decode_files", "encode_cases"]
