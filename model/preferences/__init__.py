"""Preference tuning: a speech LM learns from pairs of endings, one of which is better (DPO)."""
