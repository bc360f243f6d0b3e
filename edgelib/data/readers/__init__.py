"""Readers of labelled sources: local files, a hub, arrow tables; what each becomes."""
