"""From units to shards: duplicates and evaluation sets out, splits, order, tars."""
