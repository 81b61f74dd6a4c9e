"""Decoding recordings to samples, and finding the speech in them."""
