"""Faults put into real runs: what is injected, and whether the run survives it as promised."""
