"""What all interactive pictures share: colours of the page, quiet axes, headings, and labels that stay text."""

import html
import textwrap
import unicodedata

from space_app.palette import DARK, LIGHT

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PAGES = {
    False: {
        "lanes": LIGHT, "ink": "#26292E", "faint": "#6B7280", "grid": "#ECEEF1", "track": "#F4F5F7", "wave": "#8792A0",
        "page": "#FFFFFF", "levels": ((0, "#F7F8F9"), (0.35, "#D5DAE0"), (0.7, "#7E8896"), (1, "#22262D")),
    },
    True: {
        "lanes": DARK, "ink": "#E7E9EC", "faint": "#9CA3AF", "grid": "#34363C", "track": "#2F3137", "wave": "#8B95A3",
        "page": "#27272A", "levels": ((0, "#2B2C31"), (0.35, "#50545D"), (0.7, "#A2A9B4"), (1, "#F4F5F7")),
    },
}  # fmt: skip
# Pixels. Labels are above what they name, so that the left margin is the same on a phone and on a desktop.
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM, HEADING = 44, 10, 34, 46, 26


def as_text(label) -> str:
    """Return a label that plotly draws as it is: it reads HTML tags, entities, TeX between dollars and `%{...}`."""
    return html.escape(label, quote=False).replace("$", "&#36;").replace("%", "&#37;")


def fitted(label, width=34) -> str:
    """Return a label in one line, cut where it would be wider than a phone, which shows 34 lowercase letters."""
    label = " ".join(label.split())
    total = 0
    for place, letter in enumerate(label):
        total += 2 if unicodedata.east_asian_width(letter) in "WF" else 1.5 if letter.isupper() or letter in "mw" else 1
        if total > width:
            return label[: place - 1].rstrip() + "\u2026"
    return label


def wrapped(label, width=28) -> str:
    """Return a whole label in lines short enough for a phone."""
    lines = textwrap.wrap(" ".join(label.split()), width) or [""]
    return "<br>".join(as_text(line) for line in lines)


def page_layout(dark, height, duration) -> dict:
    """Return the layout of a picture of `height` pixels over `duration` seconds, with one time axis for all panels."""
    page = PAGES[dark]
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": MARGIN_LEFT, "r": MARGIN_RIGHT, "t": MARGIN_TOP, "b": MARGIN_BOTTOM, "pad": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": page["ink"]},
        "template": {},
        "showlegend": False,
        "dragmode": "zoom",
        "hovermode": "closest",
        "hoverdistance": 10,
        "hoverlabel": {
            "align": "left", "bgcolor": page["page"], "font": {"family": FONT, "size": 12, "color": page["ink"]},
        },
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)", "color": page["faint"], "activecolor": page["ink"],
            "remove": ["select2d", "lasso2d", "autoScale2d"],
        },
        "xaxis": {
            "range": [0, duration], "minallowed": 0, "maxallowed": duration, "zeroline": False, "showline": False,
            "gridcolor": page["grid"], "ticks": "outside", "ticklen": 4, "tickcolor": page["faint"],
            "tickfont": {"size": 11, "color": page["faint"]}, "title": {"text": "Time (s)", "standoff": 8,
            "font": {"size": 12}}, "separatethousands": False, "exponentformat": "none",
        },
    }  # fmt: skip


def panel_axis(dark, bottom, top, **options) -> dict:
    """Return a vertical axis that fills a part of the picture and that zooming leaves alone."""
    page = PAGES[dark]
    return {
        "domain": [bottom, top], "fixedrange": True, "zeroline": False, "showgrid": False, "showline": False,
        "automargin": "left", "ticks": "outside", "ticklen": 3, "tickcolor": page["faint"],
        "tickfont": {"size": 11, "color": page["faint"]},
    } | options  # fmt: skip


def heading(text, dark, y, yref="paper", **options) -> dict:
    """Return a line of text at the left edge, standing on `y`."""
    return {
        "text": text, "x": 0, "xref": "paper", "y": y, "yref": yref, "xanchor": "left", "yanchor": "bottom",
        "showarrow": False, "align": "left", "borderpad": 0, "xshift": -1,
        "font": {"size": 12, "color": PAGES[dark]["ink"]},
    } | options  # fmt: skip


def quiet_key(text, dark, y) -> dict:
    """Return a faint line of text at the right edge, standing on `y`: what a mark means."""
    font = {"size": 11, "color": PAGES[dark]["faint"]}
    return heading(text, dark, y, x=1, xanchor="right", xshift=1, yshift=2, font=font)
