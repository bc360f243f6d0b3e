"""Benchmarks, one file each: columns, prompt, reference answer, score and interval."""
