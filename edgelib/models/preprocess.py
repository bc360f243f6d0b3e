"""From pixels of any size to a model's input, batched in torch, as the model's own configuration asks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from edgelib.errors import EdgelibError, about, choose
from edgelib.ground.paths import require_ordinary
from edgelib.ground.records import shown

_RESAMPLE = {
    0: InterpolationMode.NEAREST,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")  # all that is done here
LARGEST_SIDE = 1 << 13  # pixels of a side of a model's input: eight times what any known model reads
_MOST_PIXELS = 1 << 26  # of an image on its way to the input
_AT_ONCE = 1 << 28  # bytes of images on their way, in one piece
_KINDS = ("CLIP", "Siglip", "Siglip2", "ViT", "Blip")  # image processors of transformers that take no other steps


@dataclass(frozen=True)
class PatchBudget:
    """A size for each image: about its own shape, in whole patches, as large as `most` patches of `side` pixels are."""

    side: int
    most: int

    def target(self, height: int, width: int) -> list[int]:
        """Height and width, in pixels, of an image of so many pixels."""
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

        return list(get_image_size_for_max_num_patches(height, width, self.side, self.most))


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop, scale and normalise. Resizing is torchvision's antialiased one on uint8, which stays
    within two grey levels of Pillow's."""

    resize: tuple[int, int] | int | PatchBudget | None  # (height, width), the short side, or as many patches as allowed
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: InterpolationMode
    scale: float = 1 / 255

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels; of a square image where its shape decides."""
        if self.crop:
            return self.crop
        if isinstance(self.resize, PatchBudget):
            height, width = self.resize.target(1, 1)
            return height, width
        return self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 [N, 3, H, W] -> normalised [N, 3, height, width] on the images' device.

        Raises EdgelibError for images so long and narrow that they would have to be enlarged beyond reason.
        """
        target = self._target(images)
        pixels = target[0] * target[1]
        if pixels > _MOST_PIXELS:
            height, width = images.shape[-2:]
            raise EdgelibError(
                f"images of {width:,} x {height:,} pixels would become {target[1]:,} x {target[0]:,} pixels before the "
                "centre is cut out for the model; cut them to a more usual shape first"
            )
        size = max(1, _AT_ONCE // (3 * pixels))
        if self.crop and len(images) > size:  # what is cut off again need not be there for all images at once
            return torch.cat([self._prepared(part, target, dtype) for part in images.split(size)])
        return self._prepared(images, target, dtype)

    def _target(self, images: Tensor) -> list[int]:
        """Height and width that images are resized to."""
        if isinstance(self.resize, tuple):
            return list(self.resize)
        if isinstance(self.resize, PatchBudget):
            return self.resize.target(*images.shape[-2:])
        if self.resize:
            short = min(images.shape[-2:])
            return [max(1, int(side * self.resize / short)) for side in images.shape[-2:]]
        return list(images.shape[-2:])

    def _prepared(self, images: Tensor, target: list[int], dtype: torch.dtype) -> Tensor:
        if tuple(images.shape[-2:]) != tuple(target):
            images = TF.resize(images, target, interpolation=self.interpolation, antialias=True)
        if self.crop and tuple(images.shape[-2:]) != self.crop:
            images = TF.center_crop(images, list(self.crop))
        # One multiply and one add per pixel: (x * scale - mean) / std.
        factor = torch.tensor([self.scale / s for s in self.std], device=images.device)[:, None, None]
        offset = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        return images.to(torch.float32).mul_(factor).add_(offset[:, None, None]).to(dtype)


def require_fit(preprocess: Preprocess, reads: object, folder: Path) -> None:
    """Raise EdgelibError unless the input is of the size that the network reads: a side or (height, width), in pixels.

    Anything else, such as None, says that the network reads any size.
    """
    sides = (reads, reads) if isinstance(reads, int) else tuple(reads) if isinstance(reads, list | tuple) else ()
    if len(sides) == 2 and not isinstance(preprocess.resize, PatchBudget) and preprocess.size != sides:
        made, wanted = (f"{width} x {height}" for height, width in (preprocess.size, sides))
        raise EdgelibError(
            f"{folder}: images are prepared with {made} pixels, and the model reads {wanted}; copy preprocessor_config."
            "json (or processor_config.json) and config.json from one and the same repository"
        )


def from_transformers(folder: Path) -> Preprocess:
    """Read how a Hugging Face folder has its images prepared: from preprocessor_config.json or, as transformers 5 saves
    processors, from the "image_processor" of processor_config.json, which comes first.

    Raises EdgelibError if both are missing, broken or incomplete, or ask for a step this tool does not do.
    """
    config, path = _image_processor(folder)
    _require_known_steps(config, path)
    does = {step: _switch(config, path, step) for step in ("do_resize", "do_rescale", "do_normalize")}
    resize = _resize(config, path) if does["do_resize"] else None
    crops = _switch(config, path, "do_center_crop", usual=False)
    crop = _side(config.get("crop_size"), path, "crop_size") if crops else None
    crop = (crop, crop) if isinstance(crop, int) else crop
    if resize is None and crop is None:
        raise EdgelibError(f"{path} neither resizes nor crops: the size of the model's input is unknown")
    scale = _scale(config, path) if does["do_rescale"] else 1.0
    normalise = does["do_normalize"]
    with about(str, path):
        interpolation = choose_resample(config.get("resample", 3))
    return Preprocess(
        resize=resize,
        crop=crop,
        mean=_colours(config, path, "image_mean", 255 * scale) if normalise else (0.0, 0.0, 0.0),
        std=_colours(config, path, "image_std", 255 * scale) if normalise else (1.0, 1.0, 1.0),
        interpolation=interpolation,
        scale=scale,
    )


def _switch(config: dict, path: Path, step: str, usual: bool = True) -> bool:
    """Whether a step is done; null says no."""
    value = config.get(step, usual)
    if not isinstance(value, bool | None):
        raise EdgelibError(
            f"{path}: {step} is {shown(value)}, but must be true or false; copy the file from the model's repository"
        )
    return bool(value)


def _scale(config: dict, path: Path) -> float:
    """What grey levels are multiplied by."""
    value = config.get("rescale_factor")
    value = 1 / 255 if value is None else value
    if not _is_number(value) or not 1e-6 < value <= 1:
        raise EdgelibError(
            f"{path}: rescale_factor is {shown(value)}, but must be a number above 0 and up to 1, most often 1/255; "
            "copy the file from the model's repository"
        )
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _image_processor(folder: Path) -> tuple[dict, Path]:
    """The settings of the image processor, and the file that holds them."""
    path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    nested = read_object(whole).get("image_processor") if whole.is_file() else None
    if isinstance(nested, dict):
        return nested, whole
    if not path.is_file():
        raise EdgelibError(
            f"{folder} has no preprocessor_config.json (nor an image_processor in processor_config.json), which says "
            "how images are resized and normalised; copy it from the model's repository"
        )
    return read_object(path), path


def _require_known_steps(config: dict, path: Path) -> None:
    """Refuse processors whose steps are not all done here, rather than leave some out."""
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    family = str(kind).removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor")
    family = family.removesuffix("FeatureExtractor")
    steps = sorted(k for k, on in config.items() if k.startswith("do_") and on is True and k not in _STEPS)
    if kind and family not in _KINDS:
        raise EdgelibError(
            f"{path} asks for a {kind}, whose steps are not done here; known are those of "
            f"{', '.join(f'{name}ImageProcessor' for name in _KINDS)}"
        )
    if steps:
        raise EdgelibError(f"{path} asks for {', '.join(steps)}, which is not done here; known are {', '.join(_STEPS)}")


def _resize(config: dict, path: Path) -> tuple[int, int] | int | PatchBudget:
    if "max_num_patches" not in config:
        return _side(config.get("size"), path, "size")
    side, most = config.get("patch_size"), config["max_num_patches"]
    if not all(type(value) is int and 0 < value <= LARGEST_SIDE for value in (side, most)):
        raise EdgelibError(
            f"{path}: patch_size and max_num_patches are {shown(side)} and {shown(most)}, but must be numbers from 1 "
            f"to {LARGEST_SIDE:,}; copy the file from the model's repository"
        )
    return PatchBudget(side, most)


def read_object(path: Path) -> dict:
    """Return the JSON object in a model folder's file; raises EdgelibError if it is missing or holds anything else."""
    require_ordinary(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgelibError(f"{path.parent} is not a model folder: it has no {path.name}") from None
    except OSError as error:
        raise EdgelibError(f"{path} cannot be read ({error.strerror}); copy it from the model's repository") from None
    except (ValueError, RecursionError) as error:  # no text, no JSON, numbers of 5,000 digits, deep nesting
        raise EdgelibError(f"{path} is not valid JSON ({error}); copy it again from the model's repository") from None
    if not isinstance(value, dict):
        raise EdgelibError(
            f"{path} must hold a JSON object {{...}}, but it holds a {type(value).__name__}; "
            "copy it again from the model's repository"
        )
    return value


def choose_resample(code: int | str) -> InterpolationMode:
    """Pillow's resample code or name -> torchvision's mode; raises EdgelibError for one that torch cannot do."""
    if isinstance(code, int | str) and not isinstance(code, bool) and code in _RESAMPLE:
        return _RESAMPLE[code]
    return choose({str(k): v for k, v in _RESAMPLE.items()}, shown(code), "resample mode")


def from_timm(config: dict) -> Preprocess:
    """Read timm's resolved data configuration: resize the short side to input / crop_pct, then crop the centre.

    Raises EdgelibError for sizes that no model reads.
    """
    path, sides, crop_pct = Path("config.json"), config["input_size"][1:], config.get("crop_pct") or 1.0
    numbers = _is_number(crop_pct) and len(sides) == 2 and all(type(side) is int for side in sides)
    if not numbers or not all(0 < side <= LARGEST_SIDE * crop_pct for side in sides):
        raise EdgelibError(
            f"{path}: an input_size of {shown(config['input_size'])} at a crop_pct of {shown(crop_pct)} is not from 1 "
            f"to {LARGEST_SIDE:,} pixels a side; copy the file from the model's repository"
        )
    height, width = sides
    colours = {f"image_{key}": list(v) if isinstance(v := config[key], tuple) else v for key in ("mean", "std")}
    if config.get("crop_mode") == "squash":
        resize: tuple[int, int] | int = (math.floor(height / crop_pct), math.floor(width / crop_pct))
    else:
        resize = math.floor(min(height, width) / crop_pct)
    return Preprocess(
        resize=resize,
        crop=(height, width),
        mean=_colours(colours, path, "image_mean", 1.0),
        std=_colours(colours, path, "image_std", 1.0),
        interpolation=choose_resample(config.get("interpolation", "bicubic")),
    )


def _side(size: dict | int, path: Path, key: str) -> tuple[int, int] | int:
    sides = size if isinstance(size, dict) else {"shortest_edge": size}
    names = ("shortest_edge",) if "shortest_edge" in sides else ("height", "width")
    pixels: Any = tuple(sides.get(name) for name in names)
    if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in pixels):
        raise EdgelibError(
            f"{path}: {key} is {shown(size)}, but must be a number of pixels from 1 to {LARGEST_SIDE:,}, "
            "{'shortest_edge': n} or {'height': n, 'width': n}; copy the file from the model's repository"
        )
    return pixels[0] if len(pixels) == 1 else pixels


def _colours(config: dict, path: Path, key: str, white: float) -> tuple[float, ...]:
    """Mean or deviation of the three colours, of pixels that are `white` at most."""
    values = config.get(key)
    numbers = isinstance(values, list) and len(values) == 3 and all(map(_is_number, values))
    least = white * (1e-3 if key == "image_std" else 0)
    if not numbers or not all(least <= v <= white * (1 + 1e-6) for v in values):
        raise EdgelibError(
            f"{path}: {key} is {shown(values)}, but must be three numbers from {least:g} to {white:g}, one for each of "
            "red, green and blue, as pixels are once they are rescaled; copy the file from the model's repository"
        )
    return tuple(values)
