"""Following one recording, segment or sample through the stages of a run."""
