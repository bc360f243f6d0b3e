"""What a step of a loaded model computes and moves, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counted:
    """operations: of products, convolutions and attention, a multiplication and an addition as two. weights: {layer:
    weights that it read}; passed: numbers that went into these layers and came out of them.
    """

    operations: float
    weights: dict[str, int]
    passed: int

    def bytes(self, layers: frozenset[str], bits: float, other_bits: float) -> float:
        """Bytes that move where these layers have `bits` per weight, and everything else other_bits."""
        narrow = sum(n for name, n in self.weights.items() if name in layers)
        wide = sum(self.weights.values()) - narrow + self.passed
        return (narrow * bits + wide * other_bits) / 8


def counted(module: nn.Module, step: Callable[[], object]) -> Counted:
    """Run step() once and count what the module's layers with weights of two dimensions or more do in it."""
    weights: dict[str, int] = {}
    passed = 0

    def watch(name: str) -> Callable:
        def hook(layer, given, made):
            nonlocal passed
            weights[name] = layer.weight.numel()
            passed += given[0].numel() + made.numel()

        return hook

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [m.register_forward_hook(watch(name)) for name, m in module.named_modules() if isinstance(m, kinds)]
    try:
        with FlopCounterMode(display=False) as counter:
            step()
    finally:
        for hook in hooks:
            hook.remove()
    return Counted(float(counter.get_total_flops()), weights, passed)
