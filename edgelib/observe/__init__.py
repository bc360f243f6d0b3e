"""What networks do while they run: hooks that are always removed, statistics, distances."""
