"""Outlier twins whose outliers sit on one token: what SwiGLU layers of large decoders do at the first token.

Real decoders carry massive values on few tokens, the first one above all, and they reach the inputs of down_proj (Sun
et al., 2024, arXiv:2402.17762; Yang et al., 2024, arXiv:2405.14428). Here every MLP gets neurons that answer to what it
reads at the first token and that nobody reads: their columns of down_proj are zero, so the function is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgelib.observe.watch import observing

SPIKE = "spike"
EXTRA = 128  # neurons, so that groups of up to 128 still divide the width; one of them spikes
_RIDGE = 1e-2  # of the mean power of a channel: how little the direction may rely on what other tokens lack


def plant_spikes(module: nn.Module, run: Callable[[nn.Module], object], strength: float) -> int:
    """Change our own copy of a decoder in place and return how many MLPs got a neuron that spikes at the first token.

    run: runs a network of this shape once on a short prompt. strength: size of the spike at the first token, in peaks
    of what down_proj reads otherwise. A gated MLP (gate_proj, up_proj, down_proj) without biases is needed.
    """
    seen = _seen(module, run)
    for mlp, (states, peak) in seen.items():
        _widen(mlp, _direction(states), strength * peak)
    config = getattr(module.config, "get_text_config", lambda: module.config)()
    if seen:
        config.intermediate_size += EXTRA
    return len(seen)


def _mlps(module: nn.Module) -> list[nn.Module]:
    parts = ("gate_proj", "up_proj", "down_proj")
    found = [m for m in module.modules() if all(isinstance(getattr(m, part, None), nn.Linear) for part in parts)]
    return [m for m in found if all(getattr(m, part).bias is None for part in parts)]


def _seen(module: nn.Module, run: Callable[[nn.Module], object]) -> dict[nn.Module, tuple[Tensor, float]]:
    """What each MLP reads of the first prompt [T, in], and the largest value that its down_proj reads there."""
    states: dict[nn.Module, Tensor] = {}
    peaks: dict[nn.Module, float] = {}
    hooks = []

    def watch(mlp: nn.Module) -> None:
        def entered(_, args) -> None:
            states.setdefault(mlp, args[0].detach()[0].float())

        def left(_, args) -> None:
            peaks.setdefault(mlp, float(args[0].detach()[0].abs().max()))

        hooks.extend([mlp.gate_proj.register_forward_pre_hook(entered), mlp.down_proj.register_forward_pre_hook(left)])

    try:
        for mlp in _mlps(module):
            watch(mlp)
        with observing(module):
            run(module)
    finally:
        for hook in hooks:
            hook.remove()
    return {mlp: (x, peaks[mlp]) for mlp, x in states.items() if len(x) > 1}


def _direction(states: Tensor) -> Tensor:
    """The direction [in] that the first of states [T, in] meets with 1 and the others with as little as can be."""
    first, others = states[0].double(), states[1:].double()
    power = others.T @ others / len(others)
    power.diagonal().add_(_RIDGE * power.diagonal().mean())
    direction = torch.linalg.solve(power, first)
    return direction / (direction @ first)


def _widen(mlp: nn.Module, direction: Tensor, size: float) -> None:
    low, high = 0.0, 2.0 + size**0.5
    for _ in range(60):  # silu(a) * a = size
        middle = (low + high) / 2
        low, high = (middle, high) if middle**2 * torch.sigmoid(torch.tensor(middle)) < size else (low, middle)
    for part in ("gate_proj", "up_proj"):
        linear = getattr(mlp, part)
        extra = linear.weight.new_zeros(EXTRA, linear.in_features)
        extra[0] = (high * direction).to(extra)
        linear.weight = nn.Parameter(torch.cat([linear.weight.detach(), extra]), requires_grad=False)
        linear.out_features += EXTRA
    down = mlp.down_proj
    unread = down.weight.new_zeros(down.out_features, EXTRA)
    down.weight = nn.Parameter(torch.cat([down.weight.detach(), unread], dim=1), requires_grad=False)
    down.in_features += EXTRA
