"""The embedded world: scenes drawn from records, with captions, questions and answers."""
