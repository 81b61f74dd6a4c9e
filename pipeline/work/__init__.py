"""Running the work of a stage on a Ray cluster."""
