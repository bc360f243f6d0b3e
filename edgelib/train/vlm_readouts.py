"""What `scenes-vlm` learns besides answering: to name what its vision tower and its image tokens show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.data.scenes.questions_scene import wording
from edgelib.data.scenes.records import COLOURS, MAX_OBJECTS, TEXTURES
from edgelib.data.scenes.shapes import SHAPES
from edgelib.train.vlm_batches import CELLS, IGNORED, Sights


class SightHeads(nn.Module):
    """Linear read-outs from the vision tower: shape and colour of each patch, texture and number of objects."""

    def __init__(self, width: int):
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.texture = nn.Linear(width, len(TEXTURES))
        self.count = nn.Linear(width, MAX_OBJECTS)

    def loss(self, states: Tensor, sights: Sights) -> Tensor:
        """Cross-entropies of the read-outs; states [N, patches, width]."""
        shape = -(sights.shape * self.shape(states).log_softmax(-1)).sum(-1).mean()
        colour = -(sights.colour * self.colour(states).log_softmax(-1)).sum(-1).mean()
        pooled = states.mean(dim=1)
        texture = F.cross_entropy(self.texture(pooled), sights.texture)
        count = F.cross_entropy(self.count(pooled), sights.count)
        return 3 * shape + colour + 0.25 * (texture + count)

    def accuracy(self, states: Tensor, sights: Sights) -> float:
        """Share of the patches that an object mostly covers whose shape is named right."""
        covered = sights.shape[..., -1] < 0.5
        right = self.shape(states)[..., :-1].argmax(-1) == sights.shape[..., :-1].argmax(-1)
        return float(right[covered].float().mean())


class WordLoss:
    """How far image tokens are from the words for what they show, as the decoder's own embeddings spell them.

    Without it the decoder finds only slowly which part of an image a word speaks of. A cell's target is its share by
    shape and by colour; what no object covers is "background".
    """

    def __init__(self, tokenizer):
        def ids(words) -> Tensor:
            return torch.tensor(tokenizer.convert_tokens_to_ids(list(words)))

        self._shapes, self._colours = ids([*SHAPES, "background"]), ids([*COLOURS, "background"])
        self._textures, self._lights, self._sides = ids(TEXTURES), ids(wording()["lights"]), ids(("left", "right"))

    def objects(self, image: Tensor, embedding: Tensor, sights: Sights) -> Tensor:
        """Cross-entropies of shape and colour words; image [N, cells, width], embedding [vocabulary, width]."""
        total = image.new_zeros(())
        for ids, cover, weight in ((self._shapes, sights.shape, 3), (self._colours, sights.colour, 1)):
            target = cover.unflatten(1, (image.shape[1], -1)).mean(dim=2)
            total = total - weight * (target * (image @ embedding[ids].T).log_softmax(-1)).sum(-1).mean()
        return total

    def places(self, image: Tensor, embedding: Tensor, sights: Sights) -> Tensor:
        """Cross-entropies of the words for a cell's side of the image, and for the texture and light of the whole."""
        outer = image.unflatten(1, (CELLS, CELLS))[:, :, [0, -1]]
        sides = torch.tensor([0, 1]).expand(outer.shape[:3])
        side = F.cross_entropy((outer @ embedding[self._sides].T).flatten(0, 2), sides.flatten())
        whole = image.mean(dim=1)
        texture = F.cross_entropy(whole @ embedding[self._textures].T, sights.texture)
        light = F.cross_entropy(whole @ embedding[self._lights].T, sights.light, ignore_index=IGNORED, reduction="sum")
        return side + 0.5 * (texture + light / len(image))
