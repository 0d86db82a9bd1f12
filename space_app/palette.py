"""The colours of every picture of sounds, for light and for dark pages, and the text next to them.

The seven hues were searched so that the two closest are far apart for normal vision and for protanopes,
deuteranopes and tritanopes (simulated as in Machado, Oliveira and Fernandes 2009), each in a contrast of three to one
or more to its page. tests/test_palette.py holds them to it.
"""

LIGHT = ("#1F6FA8", "#C86D4A", "#7A3A6D", "#3C540E", "#2DA295", "#A08C10", "#BF3351")
DARK = ("#4F9AF5", "#F8CFAF", "#CB66B9", "#CFE47A", "#86E4E5", "#A8902F", "#DD6778")
INK, FAINT, WAVE = "#222222", "#8A8A8A", "#5B6770"


def ink_on(colour) -> str:
    """Return white or dark ink, whichever is read better on a colour `#RRGGBB` (contrast of WCAG 2)."""
    luminance = relative_luminance(colour)
    return "#FFFFFF" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / (relative_luminance(INK) + 0.05) else INK


def relative_luminance(colour) -> float:
    """Return the relative luminance of a colour `#RRGGBB`, 0 to 1 (WCAG 2)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(value * weight for value, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def shorten(label, limit=24) -> str:
    """Return a label in one line of at most `limit` characters, cut with an ellipsis."""
    label = " ".join(label.split())
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "\u2026"


def ordered_labels(*sides) -> list[str]:
    """Return every label of some lists of events once, in order of its first onset."""
    events = sorted((event.onset, event.event_label) for side in sides for event in side)
    return list(dict.fromkeys(label for _, label in events))
