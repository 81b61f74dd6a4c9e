"""STSP: whether a model of text and speech goes on in the mood of its prompt."""
