"""How good units and models are."""
