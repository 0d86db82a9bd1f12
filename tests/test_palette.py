"""The colours of the pictures: told apart by every eye, and seen on their page."""

import numpy as np
import pytest

from space_app.palette import DARK, LIGHT, ink_on, relative_luminance, shorten

# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB.
EYES = {
    "common": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# sRGB to XYZ, D65.
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(colour, eye):
    """Return a colour as CIE 1976 L*a*b* of an eye."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(EYES[eye]) @ linear, 0, 1)
    x, y, z = np.array(XYZ) @ seen / (0.95047, 1, 1.08883)
    x, y, z = (np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first, second):
    low, high = sorted(relative_luminance(colour) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def test_conversion_by_known_values():
    # Red of sRGB is (53.24, 80.09, 67.20) in L*a*b*, and 5.25 to one against black; grey stays grey to every eye.
    assert lab("#FF0000", "common") == pytest.approx((53.24, 80.09, 67.20), abs=0.02)
    assert contrast("#FF0000", "#000000") == pytest.approx(5.25, abs=0.01)
    for eye in EYES:
        assert lab("#808080", eye) == pytest.approx(lab("#808080", "common"), abs=0.1)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_every_eye_tells_lanes_apart(colours, eye):
    places = np.array([lab(colour, eye) for colour in colours])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    neighbours = [distances[i, (i + 1) % len(colours)] for i in range(len(colours))]
    assert min(neighbours) > 30
    assert distances[~np.eye(len(colours), dtype=bool)].min() > 18


def test_colours_are_seen_on_their_page():
    # Three to one is what WCAG 2.2 asks of graphics (success criterion 1.4.11); Gradio's dark blocks are #27272A.
    assert min(contrast(colour, "#FFFFFF") for colour in LIGHT) >= 3
    assert min(contrast(colour, "#27272A") for colour in DARK) >= 3


def test_ink_is_read_on_every_colour():
    assert min(contrast(colour, ink_on(colour)) for colour in LIGHT + DARK) >= 4
    assert ink_on("#FFFFFF") == "#222222" and ink_on("#000000") == "#FFFFFF"


def test_labels_are_shortened_to_one_line():
    assert shorten("dog\n bark") == "dog bark" and shorten("abcdef", 6) == "abcdef" and shorten("abc def", 5) == "abc…"
