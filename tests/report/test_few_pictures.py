"""A row of pictures is drawn for a phone however few of its places are filled, as where few answers differ."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from edgelib.report.figures.narrow import WIDTH, narrow


@pytest.mark.parametrize("filled", range(5))
def test_places_without_a_picture_are_left_out(filled):
    figure, axes = plt.subplots(1, 4)
    for ax in axes:
        ax.axis("off")
    for ax in axes[:filled]:
        ax.imshow(np.zeros((3, 3)))
    narrow(figure).savefig(io.BytesIO(), format="svg")
    assert len([ax for ax in figure.axes if ax.has_data()]) == filled and figure.get_figwidth() == WIDTH
    plt.close(figure)
