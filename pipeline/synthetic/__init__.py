"""Speech made by espeak-ng, for the demo, tests and small trainings."""
