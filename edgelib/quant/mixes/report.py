"""What a mix gives each tensor, as a table: a name such as Q4_K_M does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgelib.errors import EdgelibError
from edgelib.formats.gguf.codec import KINDS
from edgelib.formats.gguf.mix import Mix
from edgelib.formats.gguf.rules import MIXES
from edgelib.ground.separate import separated
from edgelib.observe.calibrate import module_of
from edgelib.quant.mixes.places import layer_of, pieces, table_place
from edgelib.quant.mixes.resolve import layer_schemes, table_type
from edgelib.quant.quantize import target_layers
from edgelib.quant.scheme import Scheme, scheme_for

if TYPE_CHECKING:
    import pandas as pd


def mix_report(model, scheme: str | Mapping | Scheme) -> pd.DataFrame:
    """Return one row for every weight that a mix gives a type, in the model's order, without rounding anything.

    tensor: the Linear, with .q, .k or .v for rows of a fused one, or the table of tokens. tower: "decoder" or "vision".
    role: as llama.cpp tells weights apart. layer. rows, columns. type: what it gets, "f16" included. bits: of a value,
    scales included. why: "" for the mix's usual type, "lifted" where the role asks for another, "rows of 576" where
    the blocks of what the role asks for do not divide the rows. It takes shapes alone, so a model without weights
    (`edgelib.architecture`) will do.
    Raises EdgelibError for a scheme that is no mix, and as `quantize` does for one that does not fit the model.
    """
    import pandas as pd

    module, chosen = separated(module_of(model)), scheme_for(model, scheme)
    mix = chosen.weight_format
    if not isinstance(mix, Mix):
        raise EdgelibError(f"{chosen.name} gives all weights one type; a mix is gguf-q4_k_m or another of its kind")
    targets = target_layers(module, chosen)
    found, rows = pieces(module), []
    table = table_type(module, chosen, targets)
    if table is not None:
        shape = tuple(module.get_submodule(table[0]).weight.shape)
        rows.append((table[0], "decoder", table_place(module).role, 0, *shape, table[1], mix.decoder))
    for name, parts in layer_schemes(module, chosen, targets).items():
        tower = "decoder" if found[name][0].place.layers else "vision"
        own = mix.decoder if tower == "decoder" else mix.vision or mix.decoder
        columns = module.get_submodule(name).in_features
        for piece in found[name] if len(parts) > 1 else found[name][:1]:
            part = next((p for p in parts if p.name == piece.part), parts[0])
            label = f"{name}.{part.name}" if part.name else name
            role = piece.place.role if len(parts) > 1 or len(found[name]) == 1 else "attn_qkv"
            type = "f16" if part.scheme.weight == "fp16" else part.scheme.weight
            rows.append((label, tower, role, layer_of(name), part.rows, columns, type, own))
    report = pd.DataFrame(rows, columns=["tensor", "tower", "role", "layer", "rows", "columns", "type", "mix"])
    report["bits"] = [8 * KINDS[t].bytes / KINDS[t].block if t in KINDS else 16.0 for t in report["type"]]
    report["why"] = [_why(row) for row in report.itertuples()]
    return report


def _why(row) -> str:
    usual = MIXES[row.mix][0]
    if row.type == usual:
        return ""
    divides = usual == "f16" or row.columns % KINDS[usual].block == 0
    return "lifted" if divides else f"rows of {row.columns}"
