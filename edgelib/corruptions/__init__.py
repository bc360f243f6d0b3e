"""Corruptions of images: those of ImageNet-C and of CIFAR-10-C with their severities, and resampling.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR
2019). The arithmetic follows two published implementations: PyPI `imagecorruptions` 1.1.2 for the "imagenet-c" table,
`make_cifar_c.py` of hendrycks/robustness for "cifar-c". Their quirks are kept where published scores depend on them
(results are truncated, not rounded; see `notes` of each entry of CORRUPTIONS). All nineteen are made. One differs from
the published files by design: `frost` pastes photographs there, whose licence is not known, and is drawn here.

Randomness follows the image: its key is a hash of (corruption, seed, the bytes of the image). Hence
corrupt(batch)[i] equals corrupt(batch[i:i+1])[0] bit for bit, equal images get equal noise, and no batch size, order,
chunk or thread count matters. Severity and table are not part of the key: the same image meets the same
noise pattern, haze and direction at every severity, only stronger, which makes comparisons between severities sharper.
All arithmetic is in whole numbers or in element-wise float32, so that the vector width of a processor cannot show.

A new corruption is one function and two rows of severities, decorated with `registry.corruption`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgelib.corruptions import blur, digital, gaussian, geometry, noise, weather  # noqa: F401  (fill CORRUPTIONS)
from edgelib.corruptions.chunks import in_chunks
from edgelib.corruptions.registry import CORRUPTIONS, FAMILIES, SEVERITIES, TABLES, Corruption
from edgelib.errors import EdgelibError, choose
from edgelib.ground.checks import whole_number
from edgelib.ground.memory import require_free
from edgelib.ground.randomness import address, content_keys

__all__ = ["CORRUPTIONS", "FAMILIES", "SEVERITIES", "TABLES", "Corruption", "corrupt", "table_for"]

SMALLEST_SIDE = 16
_LARGE, _WORK_BYTES = 1 << 24, 40  # values of an image from which on memory is asked for, and what each takes meanwhile
_SMALL_IMAGE = 64


def table_for(height: int, width: int) -> str:
    """Return the severity table for images of this size: "cifar-c" if the shorter side is at most 64 pixels."""
    return "cifar-c" if min(height, width) <= _SMALL_IMAGE else "imagenet-c"


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, table: str | None = None) -> Tensor:
    """Return a corrupted copy of a batch of images: same shape, dtype and device.

    - images: uint8 [N, 3, H, W], or floating point in [0, 1], which is rounded to the 256 levels first.
    - name: a key of CORRUPTIONS.
    - severity: 0 (an unchanged copy) to 5.
    - seed: any whole number; it names the noise; every image draws its own from (name, seed, its bytes), in any batch.
    - table: "imagenet-c" or "cifar-c"; None chooses by image size (`table_for`).

    Raises EdgelibError for an unknown name, table or severity, a seed that is no whole number, and images of wrong
    type, shape, range or size.
    """
    entry = choose(CORRUPTIONS, name, "corruption")
    severity, seed = _checked_severity(severity), whole_number(seed, "seed")
    _check_images(images)
    levels = choose(entry.levels, table_for(*images.shape[2:]) if table is None else table, "severity table")
    if severity == 0 or len(images) == 0:
        return images.clone()
    if images.is_floating_point():
        return _corrupted(images.mul(255).round_().to(torch.uint8), entry, levels[severity - 1], seed).to(images) / 255
    return _corrupted(images, entry, levels[severity - 1], seed)


def _corrupted(images: Tensor, entry: Corruption, level, seed: int) -> Tensor:
    base = address("corruption", entry.name, seed)
    if images[0].numel() > _LARGE and images.device.type == "cpu":
        height, width = images.shape[2:]
        at_once = min(len(images), torch.get_num_threads())
        what = f"{entry.name} on {at_once} image(s) of {width:,} x {height:,} pixels at once"
        require_free(_WORK_BYTES * images[0].numel() * at_once, what, "shrink the images, or use fewer threads")
    result = torch.empty_like(images, memory_format=torch.contiguous_format)

    inferring = torch.is_inference_mode_enabled()  # each thread has its own mode, and only one writes to `result`

    def corrupt_chunk(start: int, stop: int) -> None:
        with torch.inference_mode(inferring):
            part = images[start:stop].contiguous()
            result[start:stop] = entry.apply(part, level, content_keys(base, part) if entry.random else None)

    in_chunks(corrupt_chunk, images)
    return result


def _checked_severity(severity: object) -> int:
    number = whole_number(severity, "severity, from 0 (clean) to 5,")
    if number not in (0, *SEVERITIES):
        raise EdgelibError(f"severity must be a whole number from 0 (clean) to 5, got {severity!r}")
    return number


def _check_images(images: object) -> None:
    if not isinstance(images, Tensor):
        raise EdgelibError(f"images must be a torch tensor, got {type(images).__name__}; use torch.as_tensor(images)")
    shape = list(images.shape)
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise EdgelibError(
            f"images must be uint8, or floating point in [0, 1], got {images.dtype}; convert values in "
            "0..255 with images.to(torch.uint8)"
        )
    if images.ndim != 4 or shape[1] != 3:
        raise EdgelibError(
            f"images must have shape [N, 3, H, W], got {shape}; add a batch axis with images[None], "
            "move channels with images.permute(0, 3, 1, 2), repeat grey ones with "
            "images.expand(-1, 3, -1, -1)"
        )
    if min(shape[2:]) < SMALLEST_SIDE:
        raise EdgelibError(
            f"images must be at least {SMALLEST_SIDE} pixels high and wide, got {shape}; enlarge them first"
        )
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        raise EdgelibError(
            "floating-point images must lie in [0, 1] without NaN; divide 0..255 values by 255, or undo "
            "the model's normalisation before corrupting"
        )
