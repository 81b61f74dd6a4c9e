"""Training on speech, text and the two interleaved, as SpiRit-LM is: what sequences are and how they mix."""
