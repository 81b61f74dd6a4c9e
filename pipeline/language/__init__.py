"""The language filter: keeps recordings in a wanted language and drops speech that the run already holds."""
