"""Corruptions per second: edgelib against PyPI imagecorruptions, the same images, severities and run.

Per image, medians over severities 1 to 5 and repeats; the peer works image by image, as it must. The peer takes turns
with us, so that load on the machine hits both. Needs `pip install imagecorruptions opencv-python-headless`.

    python benchmarks/corruptions.py [--quick] [repeats=3] [severities=5] [images=32]
"""

from __future__ import annotations

import statistics
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from goals import Table, goal, machine, script

from edgelib.corruptions import CORRUPTIONS, corrupt

SIDES = {224: 1, 48: 8, 32: 8}  # side in pixels -> how many times `images` are in a batch
GOALS = {224: (8, 2), 32: (15, 2)}  # geometric mean over the corruptions that the peer has, and the least
PEER_IMAGES = 3


def import_peer():
    """Return the package imagecorruptions, None where it is not installed.

    A current stack lacks four names that the package asks for; it is not edited.
    """
    import scipy.ndimage
    import skimage.filters

    old = types.ModuleType("scipy.ndimage.interpolation")
    old.map_coordinates = scipy.ndimage.map_coordinates
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, path: str(Path(sys.modules[package].__file__).parent / path)
    sys.modules.update({"scipy.ndimage.interpolation": old, "pkg_resources": resources})
    np.float_ = np.float64
    smooth = skimage.filters.gaussian
    skimage.filters.gaussian = lambda image, sigma, multichannel=False, **options: smooth(
        image, sigma, channel_axis=-1 if multichannel else None, **options
    )
    try:
        import imagecorruptions
    except ImportError:
        return None
    return imagecorruptions


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


def compare(peer, name, images, repeats, severities):
    """Return (peer, ours) in milliseconds per image."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    theirs, ours = [], []
    for severity in range(6 - severities, 6):
        for repeat in range(repeats + 1):
            some = images[:PEER_IMAGES]
            slow = milliseconds(lambda s=severity, x=some: [peer.corrupt(i, s, name) for i in x], len(some))
            fast = milliseconds(lambda s=severity: corrupt(batch, name, s, table="imagenet-c"), len(batch))
            if repeat:  # the first round warms up
                theirs.append(slow)
                ours.append(fast)
    return statistics.median(theirs), statistics.median(ours)


def main(repeats: int = 3, severities: int = 5, images: int = 32) -> None:
    """Print one row per corruption and size; `severities` counts from the strongest."""
    warnings.simplefilter("ignore")
    peer = import_peer()
    if peer is None:
        sys.exit("install the peer with: pip install imagecorruptions opencv-python-headless")
    print(f"{machine()}; ms per image")
    for side, times in SIDES.items():
        some, ratios = pictures(images * times, side), []
        print(f"\n{side} px, batches of {len(some)}")
        table = Table(("", 24, ""), ("imagecorruptions", 18, ".3f"), ("edgelib", 12, ".4f"), ("ratio", 7, ".1f"))
        for name in [name for name in CORRUPTIONS if name in peer.get_corruption_names("all")]:
            theirs, ours = compare(peer, name, some, repeats, severities)
            ratios.append(theirs / ours)
            table.row(name, theirs, ours, ratios[-1])
        table.row("geometric mean", None, None, statistics.geometric_mean(ratios))
        if side in GOALS:
            mean, least = GOALS[side]
            goal(f"as fast as imagecorruptions, {side} px, mean", statistics.geometric_mean(ratios), at_least=mean)
            goal(f"as fast as imagecorruptions, {side} px, least", min(ratios), at_least=least)


if __name__ == "__main__":
    script(main, repeats=1, severities=1, images=16)
