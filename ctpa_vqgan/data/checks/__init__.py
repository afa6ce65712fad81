"""Checks of CT volumes, each with a rule id and a documented threshold."""

from ctpa_vqgan.data.checks.rules import RULES, Finding, Rule, refuse

__all__ = ["RULES", "Finding", "Rule", "refuse"]
