"""Convolutions as matrix products: a Linear reads the patches that the kernel covers, laid out in rows (im2col).

What observes, rounds, packs or runs Linears then reaches convolutions too. As long as the Linear is whole and nobody
watches, torch's own convolution computes, to the same bit and at the same speed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.errors import EdgelibError

MATRIX = ".matrix"  # how the name of the Linear ends that has the weight of a convolution
_COLOURS = 4  # most channels of an image


def is_convolution(layer: nn.Module) -> bool:
    """Whether the layer is a two-dimensional convolution without a forward of its own."""
    return isinstance(layer, nn.Conv2d) and type(layer).forward is nn.Conv2d.forward


def is_patch_embedding(layer: nn.Module) -> bool:
    """Whether the layer cuts an image into patches that do not overlap, as vision transformers begin."""
    return (
        isinstance(layer, nn.modules.conv._ConvNd)
        and layer.in_channels <= _COLOURS
        and layer.groups == 1
        and tuple(layer.kernel_size) == tuple(layer.stride)
        and layer.kernel_size[-1] > 1
        and not any(layer._reversed_padding_repeated_twice)
    )


def own_way(layer: nn.Module) -> bool:
    """Whether the layer is a convolution over an image that is computed in a way that is not known here."""
    two = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return two and not is_convolution(layer) and not is_patch_embedding(layer)


def separable(layer: nn.Module, name: str = "", patches: Collection[str] = ()) -> bool:
    """Whether the layer is taken for a Linear: a known convolution, a patch embedding only if named in `patches`."""
    return is_convolution(layer) and (name in patches or not is_patch_embedding(layer))


class SeparateConvolution(nn.Module):
    """A convolution whose weight [out, in / groups * kernel] lies in a Linear; called and answering as nn.Conv2d.

    `matrix` multiplies rows of in * kernel values, one for every place of the output; with groups each group of output
    channels reads its own part of them, and its rows are [in / groups * kernel]. watch: called with the rows
    [N, places (* groups), in / groups * kernel] and the weight before each run, while somebody observes.
    """

    watch: Callable[[Tensor, Tensor], None] | None = None

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        shell = copy.copy(conv)
        shell._parameters = dict.fromkeys(conv._parameters)
        self._shell = (shell,)  # in a tuple, so that it does not count as a layer
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        flat = conv.weight.detach().flatten(1)
        self.matrix = nn.Linear(flat.shape[1], flat.shape[0], bias=conv.bias is not None, device="meta")
        trained = conv.weight.requires_grad
        self.matrix.weight = nn.Parameter(flat, requires_grad=trained)
        if conv.bias is not None:
            self.matrix.bias = nn.Parameter(conv.bias.detach(), requires_grad=trained)

    @property
    def weight(self) -> Tensor:
        """The weight as a convolution has it, [out, in / groups, height, width]."""
        return self.matrix.weight.view(self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], None without one."""
        return self.matrix.bias

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d.forward`: [N, in, H, W] -> [N, out, h, w]; raises EdgelibError where groups cannot be kept."""
        if type(self.matrix) is nn.Linear:
            if self.watch is not None:
                rows = self.rows(x)
                self.watch(rows.reshape(len(rows), -1, self.matrix.in_features), self.matrix.weight)
            return self._shell[0]._conv_forward(x, self.weight, self.bias)
        alone = getattr(self.matrix, "rounds_alone", False)
        if alone:  # each value by itself, so that no row has to be laid out
            return self._shell[0]._conv_forward(self.matrix.round_input(x), self.weight, self.bias)
        single = x.dim() == 3
        x = x[None] if single else x
        rows = self.rows(x)
        out = (self.matrix(rows) if self.groups == 1 else self._grouped(rows)).mT  # [N, out, places]
        out = out.unflatten(-1, self._places(x)).contiguous()
        return out[0] if single else out

    def rows(self, x: Tensor) -> Tensor:
        """What the kernel covers at each place of the output: [N, in, H, W] -> [N, places, in * kernel]."""
        (conv,) = self._shell
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        padded = F.pad(x if x.dim() == 4 else x[None], conv._reversed_padding_repeated_twice, mode=mode)
        return F.unfold(padded, self.kernel_size, self.dilation, 0, self.stride).mT

    def joined(self) -> nn.Conv2d:
        """The convolution that this was made of."""
        conv = copy.copy(self._shell[0])
        conv._parameters = dict(conv._parameters)
        trained = self.matrix.weight.requires_grad
        conv._parameters["weight"] = nn.Parameter(self.weight.detach(), requires_grad=trained)
        conv._parameters["bias"] = self.matrix.bias
        return conv

    def _grouped(self, rows: Tensor) -> Tensor:
        """Rows [N, places, in * kernel] -> [N, places, out], each group of outputs from its own inputs."""
        if not hasattr(self.matrix, "round_input"):
            raise EdgelibError(
                f"a convolution in {self.groups} groups is no product of one matrix, so {type(self.matrix).__name__} "
                "cannot compute it: exclude it when you quantize"
            )
        weight = self.matrix.weight.unflatten(0, (self.groups, -1))  # [groups, out / groups, width]
        rounded = self.matrix.round_input(rows).unflatten(-1, (self.groups, -1)).transpose(1, 2)
        out = (rounded @ weight.mT).transpose(1, 2).flatten(2)
        return out if self.matrix.bias is None else out + self.matrix.bias

    def _places(self, x: Tensor) -> tuple[int, int]:
        (conv,) = self._shell
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        height, width = x.shape[-2] + top + bottom, x.shape[-1] + left + right
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return (height - reach[0]) // self.stride[0] + 1, (width - reach[1]) // self.stride[1] + 1
