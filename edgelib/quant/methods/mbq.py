"""MBQ (Li et al., CVPR 2025): AWQ's search with the errors of image and text tokens weighed against each other.

A language model that reads images sees many image tokens and few text tokens, and its answer hangs far more on some
than on others; one sum over all rows lets the many decide. Where a layer sees one modality there is nothing to balance
and MBQ is AWQ's search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgelib.quant.methods.awq import migrate_salient
from edgelib.quant.methods.layer import Layer, Migration


def row_weights(modalities: Tensor, sensitivity: Mapping[int, float] | None = None) -> Tensor:
    """Return the weight of each row [n], of mean 1, from its modality (an index into `MODALITIES`, int64 [n]).

    sensitivity: how much the task's loss reacts to a row of each modality; the authors take the mean |gradient| of the
    caption loss at the layer's output. By default modalities count alike in sum, whatever their numbers of rows.
    """
    codes, place, counts = modalities.unique(return_inverse=True, return_counts=True)
    if sensitivity is None:
        weights = 1 / counts
    else:
        weights = torch.tensor([float(sensitivity[code]) for code in codes.tolist()])
    weights = weights[place]
    return weights / weights.mean()


def migrate_balanced(layers: Sequence[Layer], sensitivity: Mapping[int, float] | None = None) -> Migration:
    """Return the scales of Linears that read one input: AWQ's ratios, compared by the balanced mean absolute error."""
    modalities = layers[0].seen.row_modalities
    if modalities is None or len(modalities.unique()) < 2:
        return migrate_salient(layers)
    weights = row_weights(modalities, sensitivity)[:, None]

    def balanced_error(layer: Layer, rounded: Tensor, target: Tensor) -> Tensor:
        return (layer.rounded_inputs() @ rounded.T).sub_(target).abs_().mul_(weights.to(rounded)).mean(0)

    return migrate_salient(layers, balanced_error)
