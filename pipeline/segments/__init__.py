"""From recordings to segments, and segments in chunks."""
