"""Readers of corpora, one per kind, and the manifest of their recordings."""
