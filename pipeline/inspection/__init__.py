"""What a run holds, and whether it is whole."""
