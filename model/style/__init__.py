"""Codes of style: what a second of speech sounds like, whatever is said."""
