"""Benchmarks of units alone, without a speech LM."""
