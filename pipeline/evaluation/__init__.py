"""Measures of how good units and models are."""
