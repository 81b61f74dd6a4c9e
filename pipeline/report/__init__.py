"""A run as pages to look at and listen to."""
