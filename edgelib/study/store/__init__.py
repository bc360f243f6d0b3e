"""The store of outcomes: one sealed file per cell, in a folder of this machine or behind a URL."""

from edgelib.study.store.cells import CellStore
from edgelib.study.store.folders import StoreError

__all__ = ["CellStore", "StoreError"]
