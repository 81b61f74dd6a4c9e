"""What a corpus will cost: a sample of it goes through the stages, and what was measured is scaled up."""
