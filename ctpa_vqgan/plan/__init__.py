"""Foretell what a training takes: memory, steps, disk, and after a short trial the time."""

from ctpa_vqgan.plan.amount import Amount
from ctpa_vqgan.plan.memory import StepMemory, step_memory
from ctpa_vqgan.plan.run import make_plan, run_plan

__all__ = ["Amount", "StepMemory", "make_plan", "run_plan", "step_memory"]
