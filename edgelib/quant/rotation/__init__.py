"""Rotations folded into weights: the function stays, and no channel stands out any more."""
