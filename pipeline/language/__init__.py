"""Which recordings are in a wanted language."""
