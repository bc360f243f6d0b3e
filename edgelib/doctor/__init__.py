"""What this machine and a user's models can do here, and how each fault is mended: `edgelib doctor`."""
