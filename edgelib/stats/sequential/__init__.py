"""Statistics that may be looked at after every item: confidence sequences, and when verdicts are settled."""
