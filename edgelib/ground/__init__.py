"""Ground: addresses of randomness, checks, progress, paths, copies of networks, the hub; knows nobody."""
