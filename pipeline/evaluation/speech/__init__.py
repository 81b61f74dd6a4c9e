"""Benchmarks of what is said, as an ASR hears it and a text LM judges it."""
