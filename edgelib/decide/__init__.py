"""Decisions from tables: budgets, dominance, frontiers under uncertainty, formats layer by layer."""
