"""Benchmarks whose answers are read off a picture: scanned pages and charts."""
