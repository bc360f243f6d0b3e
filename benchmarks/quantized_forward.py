"""Simulator overhead: a quantized CLIP ViT-B/32 forward against its fp32 forward, and against decoding on each call.

Random weights (the arithmetic does not care), both towers, images and prompts in one call. The peer keeps the
weights as int16 codes, decodes them to fp32 in every forward and rounds activations per token, which is how
EdgeVLM-Bench describes its PTQLinear. Models take turns within a repeat, so that load on the machine hits all alike.

    python benchmarks/quantized_forward.py [--quick] [repeats=9] [batch=32] [layers=12, in each tower]
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F
from goals import Table, goal, machine, script
from torch import nn
from transformers import CLIPConfig, CLIPModel

from edgelib.formats.table import encode
from edgelib.observe.calibrate import calibrate
from edgelib.quant.quantize import QuantLinear, quantize, shared_copy


class DecodingLinear(nn.Module):
    """The peer: int16 codes decoded in each forward, activations rounded per token one plain operation at a time."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        encoded = encode(linear.weight.detach(), "int8", "channel")
        self.codes, self.scale, self.bias = encoded.codes.to(torch.int16), encoded.scale, linear.bias

    def forward(self, x):
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
        x = torch.clamp(torch.round(x / scale), -127, 127) * scale
        return F.linear(x, self.codes.float() * self.scale, self.bias)


def peer_copy(module: nn.Module) -> nn.Module:
    """Return a copy of `module` with every Linear replaced by the peer's layer."""
    result = shared_copy(module)
    for name, layer in list(result.named_modules()):
        if isinstance(layer, nn.Linear):
            result.set_submodule(name, DecodingLinear(layer))
    return result


def milliseconds(models: dict[str, nn.Module], inputs: dict, repeats: int) -> dict[str, list[float]]:
    """Return `repeats` forward times of each model, taken in turns after one warm-up; print each turn."""
    times = {name: [] for name in models}
    table = Table(("ms", 12, ""), *((name, len(name) + 3, ".1f") for name in models))
    with torch.no_grad():
        for repeat in range(repeats + 1):
            turn = []
            for model in models.values():
                start = time.perf_counter()
                model(**inputs)
                turn.append(1e3 * (time.perf_counter() - start))
            table.row(f"turn {repeat}" if repeat else "warm-up", *turn)
            for name, one in zip(times, turn, strict=True):
                times[name] += [one] if repeat else []
    return times


def main(repeats: int = 9, batch: int = 32, layers: int = 12) -> None:
    """Print every turn, then median forward times and their ratios to fp32."""
    torch.manual_seed(0)
    depth = {"num_hidden_layers": layers}
    model = CLIPModel(CLIPConfig(vision_config=depth, text_config=depth)).eval()
    inputs = {
        "pixel_values": torch.randn(batch, 3, 224, 224),
        "input_ids": torch.randint(1, 49000, (10, 16)),
        "attention_mask": torch.ones(10, 16, dtype=torch.long),
    }
    seen = calibrate(model, [inputs])
    models = {"fp32": model, "int16 decoded": peer_copy(model)}
    for scheme in ("w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax"):
        models[scheme] = quantize(model, scheme, seen)
    quantized = sum(isinstance(layer, QuantLinear) for layer in models["w8a8-minmax"].modules())
    print(machine())
    print(f"CLIP ViT-B/32, {layers} layers per tower, {quantized} quantized Linears, batch {batch} and 10 prompts")
    times = milliseconds(models, inputs, repeats)
    print()
    heads = (("median ms", 12, ".1f"), ("best ms", 10, ".1f"), ("median ratio", 14, ".3f"), ("best ratio", 12, ".3f"))
    table = Table(("", 20, ""), *heads)
    for name, values in times.items():
        # the ratio is taken within each repeat, then its median: slow phases of a shared machine cancel
        ratio = statistics.median(v / base for v, base in zip(values, times["fp32"], strict=True))
        table.row(name, statistics.median(values), min(values), ratio, min(values) / min(times["fp32"]))
        if name == "w8a8-minmax":
            goal("w8a8-minmax forward over fp32", ratio, at_most=1.15)


if __name__ == "__main__":
    script(main, repeats=3, batch=4, layers=2)
