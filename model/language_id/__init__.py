"""Classifiers of spoken language."""
