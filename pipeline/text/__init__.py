"""Text for a model of speech and text: corpora of text become shards of tokens."""
