"""Which type llama.cpp gives a tensor in a file of a name such as Q4_K_M: by what it is, where it lies and how wide."""

from __future__ import annotations

from typing import NamedTuple

from edgelib.errors import EdgelibError, choose
from edgelib.formats.gguf.codec import KINDS, fallback

# name of a file -> the type of most of its tensors, and its number in the file's metadata (llama_ftype)
MIXES: dict[str, tuple[str, int]] = {
    "f16": ("f16", 1),
    "q4_0": ("q4_0", 2),
    "q4_1": ("q4_1", 3),
    "q8_0": ("q8_0", 7),
    "q5_0": ("q5_0", 8),
    "q5_1": ("q5_1", 9),
    "q2_k": ("q2_k", 10),
    "q3_k_s": ("q3_k", 11),
    "q3_k_m": ("q3_k", 12),
    "q3_k_l": ("q3_k", 13),
    "q4_k_s": ("q4_k", 14),
    "q4_k_m": ("q4_k", 15),
    "q5_k_s": ("q5_k", 16),
    "q5_k_m": ("q5_k", 17),
    "q6_k": ("q6_k", 18),
    "iq4_nl": ("iq4_nl", 25),
    "iq4_xs": ("iq4_xs", 30),
}
_LIFTED = ("q4_k_m", "q5_k_m")  # their values and outputs of the MLP have 6 bits in half of the layers
_NON_LINEAR = ("iq4_nl", "iq4_xs")


class Place(NamedTuple):
    """Where a weight stands in its network, as llama.cpp tells weights apart.

    role: "token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_up", "ffn_gate",
    "ffn_down" or "other". layer, layers: its block and how many there are; layers is 0 in a vision tower, of which
    llama.cpp reads no number of blocks, so that every ffn_down there counts as one of the last. values: how many
    weights of the network make values (attn_v or attn_qkv). shared: how many query heads read one key (0: unknown).
    tied: whether token_embd is the output, too. large: whether llama.cpp takes the network for its 70B, whose values
    are few and have 5 bits or more.
    """

    role: str
    layer: int = 0
    layers: int = 0
    values: int = 0
    shared: int = 0
    tied: bool = False
    large: bool = False


def type_of(mix: str, place: Place, columns: int, *, importance: bool = False) -> str:
    """Return the type, "q4_k" or "f16" and the like, of a weight [rows, columns] in a file called `mix`.

    importance: whether an imatrix is given, which changes a few choices. These are llama_tensor_get_type_impl and
    tensor_type_fallback of llama-quant.cpp, for networks without experts. Where llama-quantize refuses a tensor (rows
    that 32 does not divide, in a file of a type of 32), its converter and this function keep F16.
    Raises EdgelibError for an unknown mix.
    """
    base, _ = choose(MIXES, mix, "mix of a GGUF file")
    if base == "f16":
        return base
    wanted = _wanted(mix, base, place, columns, importance)
    kind = KINDS[wanted]
    return wanted if columns % kind.block == 0 else fallback(kind, columns)


def _wanted(mix: str, base: str, place: Place, columns: int, importance: bool) -> str:
    """The type by role and layer, before rows that it cannot hold."""
    role, layer, eighth = place.role, place.layer, place.layers // 8
    if role == "output" or (role == "token_embd" and place.tied):
        if columns % KINDS[base].block:
            return "q8_0"
        return base if base == "q8_0" else "q6_k"
    if role in ("attn_v", "attn_qkv"):
        return _of_values(mix, base, place)
    if role == "ffn_down":
        if mix in _LIFTED and more_bits(layer, place.layers):
            return "q6_k"
        if mix == "q2_k":
            return "q3_k"
        if mix == "q3_k_m":
            return "q5_k" if layer < place.layers // 16 else "q4_k"
        if mix == "q3_k_l":
            return "q5_k"
        if layer < eighth and (mix == "q4_k_s" or (mix in _NON_LINEAR and not importance)):
            return "q5_k"
        if layer < eighth and importance and mix in ("q4_0", "q5_0"):
            return {"q4_0": "q4_1", "q5_0": "q5_1"}[mix]
    if role == "attn_output":
        return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(mix, base)
    return base


def _of_values(mix: str, base: str, place: Place) -> str:
    wanted = _of_values_by_mix(mix, base, place)
    return "q5_k" if place.large and wanted in ("q3_k", "q4_k") else wanted


def _of_values_by_mix(mix: str, base: str, place: Place) -> str:
    if mix == "q2_k":
        return "q4_k" if place.shared >= 4 else "q3_k"
    if mix == "q3_k_m":
        return "q5_k" if place.layer < 2 else "q4_k"
    if mix == "q3_k_l":
        return "q5_k"
    if mix in _NON_LINEAR and place.shared >= 4:
        return "q5_k"
    if mix in _LIFTED and more_bits(place.layer, place.values):
        return "q6_k"
    if mix == "q4_k_s" and place.layer < 4:
        return "q5_k"
    return base


def more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp lifts a layer: the first and last eighths, and every third between (use_more_bits).

    >>> [i for i in range(16) if more_bits(i, 16)]
    [0, 1, 4, 7, 10, 13, 14, 15]
    """
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def require_mix(name: str) -> str:
    """Return the name of a mix in small letters; raises EdgelibError for an unknown one."""
    folded = name.lower() if isinstance(name, str) else name
    if not isinstance(folded, str):
        raise EdgelibError(f"a mix is a name such as q4_k_m, got {name!r}; choose from {', '.join(MIXES)}")
    choose(MIXES, folded, "mix of a GGUF file")
    return folded
