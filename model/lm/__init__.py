"""The speech language model: its data, training, continuations and perplexity."""
