"""The human study: clips and a page to rate them on, and mean opinion scores from the answers."""
