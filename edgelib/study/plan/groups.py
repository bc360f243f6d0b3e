"""Which variants of a study are built together: as many as memory holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgelib.ground.memory import free_bytes
from edgelib.study.executors import Cluster
from edgelib.study.protocol import Study


def grouped(study: Study, variants: Sequence, *, copies: int = 1) -> Iterator[list]:
    """Cut variants into groups of which `copies` fit half of the memory that is free to this process now, in order.

    No group holds more than the study keeps, and each at least one variant: what a group shares is made for each.
    """
    most = min(free_bytes() / 2, copies * study.most_kept)
    group, used = [], 0
    for variant in variants:
        size = copies * network_bytes(study, variant)
        if group and used + size > most:
            yield group
            group, used = [], 0
        group.append(variant)
        used += size
    if group:
        yield group


def copies_here(executor: str, workers: int, cluster: Cluster | None = None) -> int:
    """How many copies of a group this machine holds: threads share one, and other machines hold their own."""
    here = executor == "process" or executor == "ray" and (cluster or Cluster()).where is None
    return workers if here else 1


def network_bytes(study: Study, variant: object) -> int:
    """Bytes of the parameters of the network that a variant is a copy of."""
    return sum(p.numel() * p.element_size() for p in study.module(variant).parameters())
