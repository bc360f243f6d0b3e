"""Benchmarks as they are downloaded from their own sites, one file a layout, and tables of one's own."""
