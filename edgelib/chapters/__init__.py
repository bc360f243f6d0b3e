"""Chapters, one file each: typed parameters and the study that they lead to."""
