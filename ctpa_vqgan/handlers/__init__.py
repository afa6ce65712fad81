"""Handlers: what happens around training and evaluation engines."""

from ctpa_vqgan.handlers.bad_steps import BadSteps
from ctpa_vqgan.handlers.cases import CaseScores, CaseWriter
from ctpa_vqgan.handlers.checkpoints import Checkpoints
from ctpa_vqgan.handlers.export import ModelExport, inference_weights, load_weights
from ctpa_vqgan.handlers.judging import CaseJudge, Extent
from ctpa_vqgan.handlers.preemption import Preemption
from ctpa_vqgan.handlers.progress import Progress
from ctpa_vqgan.handlers.quarantine import Quarantine
from ctpa_vqgan.handlers.reporting import ReportWriter
from ctpa_vqgan.handlers.tensorboard import TensorBoardLog, TrainingLog, ValidationLog

__all__ = [
    "BadSteps",
    "CaseJudge",
    "CaseScores",
    "CaseWriter",
    "Checkpoints",
    "Extent",
    "ModelExport",
    "Preemption",
    "Progress",
    "Quarantine",
    "ReportWriter",
    "TensorBoardLog",
    "TrainingLog",
    "ValidationLog",
    "inference_weights",
    "load_weights",
]
