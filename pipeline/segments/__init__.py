"""From recordings to segments, and segments in work units."""
