"""From units to shards: drops duplicates and evaluation speech, splits, shuffles, writes tars."""
