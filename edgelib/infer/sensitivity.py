"""How much a model's answers change when one layer is quantized alone: what an allocation of bits is computed from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from edgelib.corruptions.condition import Condition
from edgelib.data.labelled import Dataset
from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError
from edgelib.files.size import packed_size
from edgelib.ground.progress import progress_bar
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.observe.calibrate import module_of
from edgelib.observe.distance import divergence
from edgelib.quant.mixed import quantize_mixed
from edgelib.quant.quantize import target_layers
from edgelib.quant.scheme import scheme


@torch.no_grad()
def class_logits(model: ZeroShotModel, batches: Sequence[Tensor], names: Sequence[str], prompts) -> Tensor:
    """Return the class logits [N, C] of uint8 images, features times class vectors at CLIP's temperature of 100."""
    vectors = model.class_vectors(list(names), templates(prompts))
    return torch.cat([100.0 * model.image_features(model.pixels(images)) @ vectors.T for images in batches])


def layer_sensitivity(
    model: ZeroShotModel,
    formats: Sequence[str],
    data: Dataset,
    *,
    conditions: Sequence[Condition] = (Condition(),),
    prompts: str | Sequence[str] = "simple",
    seed: int = 0,
    table: str | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (losses, sizes), layers by formats: the mean KL divergence that a layer alone causes, and its bytes.

    formats: schemes that act on a layer alone; "fp32" costs nothing. The divergence is that of class probabilities from
    those of the unquantized model, over all images and conditions; no label is looked at. sizes: bytes of the layer's
    packed weight and scales.
    Raises EdgelibError for a scheme that acts on more than a layer and for one that needs calibration.
    """
    for name in formats:
        if scheme(name).needs_calibration:
            raise EdgelibError(
                f"{name} needs calibration; a layer's sensitivity is measured with schemes that need none"
            )
    batches = [
        condition.apply(images, seed, table) for condition in conditions for _, images in data.batches(len(data))
    ]
    layers = target_layers(module_of(model), scheme("w8a8-minmax"))
    reference = class_logits(model, batches, data.class_names, prompts).log_softmax(-1)
    whole = packed_size(model)["total"]
    losses, sizes = pd.DataFrame(index=layers, columns=list(formats)), pd.DataFrame(index=layers, columns=list(formats))
    with progress_bar(len(layers) * len(formats), "layers", progress) as advance:
        for layer in layers:
            own = 4 * module_of(model).get_submodule(layer).weight.numel()
            for name in formats:
                if scheme(name).weight == "fp32":
                    losses.at[layer, name], sizes.at[layer, name] = 0.0, own
                else:
                    alone = quantize_mixed(model, {layer: name})
                    logits = class_logits(alone, batches, data.class_names, prompts)
                    losses.at[layer, name] = float(divergence(reference, logits.log_softmax(-1)).mean())
                    sizes.at[layer, name] = own - (whole - packed_size(alone)["total"])
                advance(1)
    return losses.astype(float), sizes.astype(float)
