"""Pitch tokens: F0 extraction, and a VQ-VAE that turns it into about 12.5 codes a second."""
