"""Corruptions per second: edgelib against PyPI imagecorruptions, the same images, severities and run.

Per image, medians over severities 1 to 5 and repeats; the peer works image by image, as it must. The peer takes turns
with us, so that load on the machine hits both. Needs `pip install imagecorruptions opencv-python-headless`.

    python benchmarks/corruptions.py [repeats]
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import torch

from edgelib.corruptions import CORRUPTIONS, corrupt

BATCHES = {224: 32, 48: 256, 32: 256}  # side in pixels -> images in a batch
PEER_IMAGES = 3


def import_peer():
    """Return imagecorruptions' `corrupt`, None where it is not installed.

    A current stack lacks three names that the package asks for; it is not edited.
    """
    import scipy.ndimage

    old = types.ModuleType("scipy.ndimage.interpolation")
    old.map_coordinates = scipy.ndimage.map_coordinates
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, path: str(Path(sys.modules[package].__file__).parent / path)
    sys.modules.update({"scipy.ndimage.interpolation": old, "pkg_resources": resources})
    np.float_ = np.float64
    try:
        import imagecorruptions
    except ImportError:
        return None
    return imagecorruptions.corrupt


def pictures(n, side):
    """Return uint8 [n, side, side, 3]: smooth colour fields with edges and a little grain, all different."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 3, 8, 8)).astype(np.float32)
    fields = torch.nn.functional.interpolate(torch.from_numpy(coarse), (side, side), mode="bicubic").numpy()
    fields = np.where(fields > 160, 255 - fields, fields) + rng.normal(0, 6, fields.shape)
    return np.ascontiguousarray(fields.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def milliseconds(work, n):
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start) / n


def compare(peer, name, images, repeats):
    """Return (peer, ours) in milliseconds per image."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    theirs, ours = [], []
    for severity in range(1, 6):
        for repeat in range(repeats + 1):
            some = images[:PEER_IMAGES]
            slow = milliseconds(lambda s=severity, x=some: [peer(i, s, name) for i in x], len(some))
            fast = milliseconds(lambda s=severity: corrupt(batch, name, s, table="imagenet-c"), len(batch))
            if repeat:  # the first round warms up
                theirs.append(slow)
                ours.append(fast)
    return statistics.median(theirs), statistics.median(ours)


def main():
    warnings.simplefilter("ignore")
    peer, repeats = import_peer(), int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if peer is None:
        sys.exit("install the peer with: pip install imagecorruptions opencv-python-headless")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads; ms per image")
    for side, count in BATCHES.items():
        images, ratios = pictures(count, side), []
        print(f"\n{f'{side} px, batches of {count}':24s} {'imagecorruptions':>18s} {'edgelib':>12s} {'ratio':>7s}")
        for name in CORRUPTIONS:
            theirs, ours = compare(peer, name, images, repeats)
            ratios.append(theirs / ours)
            print(f"{name:24s} {theirs:18.3f} {ours:12.4f} {ratios[-1]:7.1f}", flush=True)
        print(f"{'geometric mean':24s} {'':18s} {'':12s} {statistics.geometric_mean(ratios):7.1f}")


if __name__ == "__main__":
    main()
