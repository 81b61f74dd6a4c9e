"""From audio to units: the codebook, and tokenization."""
