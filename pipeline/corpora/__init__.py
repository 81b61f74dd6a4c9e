"""From corpora to the manifest of recordings: a reader per kind."""
