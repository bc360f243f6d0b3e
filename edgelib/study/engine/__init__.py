"""llama.cpp beside a study: its distributions against the simulation of the same files, and its times as a table."""
