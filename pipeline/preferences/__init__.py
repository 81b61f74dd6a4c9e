"""Preference pairs: a prompt with a good and a bad ending, from recordings, from texts, or from the model itself."""
