"""Foretell what a training takes, on one device or many: memory, steps, disk, network, and after a trial the time."""

from ctpa_vqgan.plan.amount import Amount
from ctpa_vqgan.plan.memory import StepMemory, step_memory
from ctpa_vqgan.plan.run import make_plan, run_plan
from ctpa_vqgan.plan.traffic import StepTraffic, step_traffic

__all__ = ["Amount", "StepMemory", "StepTraffic", "make_plan", "run_plan", "step_memory", "step_traffic"]
