"""Handlers: what happens around training and evaluation engines."""

from ctpa_vqgan.handlers.cases import CaseScores, CaseWriter
from ctpa_vqgan.handlers.checkpoints import Checkpoints, ModelExport, inference_weights, load_weights
from ctpa_vqgan.handlers.progress import Progress
from ctpa_vqgan.handlers.quarantine import Quarantine
from ctpa_vqgan.handlers.tensorboard import TensorBoardLog, TrainingLog, ValidationLog

__all__ = [
    "CaseScores",
    "CaseWriter",
    "Checkpoints",
    "ModelExport",
    "Progress",
    "Quarantine",
    "TensorBoardLog",
    "TrainingLog",
    "ValidationLog",
    "inference_weights",
    "load_weights",
]
