"""Training of the embedded models, from scratch and the same every time."""
