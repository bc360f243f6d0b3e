"""Labelled images and questions as tables and pixels: from folders, files, a hub or drawn; calibration sets."""
