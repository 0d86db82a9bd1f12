"""Formats of other programs that no checkpoint reads: WebVTT, SubRip, RTTM, TextGrid, ELAN, JAMS and Raven's tables.

The page and the command share them. A format is like those of the checkpoint's `annotations.py`, whose functions take
it in place of a name: `pipe.format_annotations(result, EXCHANGE_FORMATS["rttm"])`.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import NamedTuple

from space_app.exchange_elan import format_eaf, format_elan, is_elan, read_eaf, read_elan
from space_app.exchange_jams import format_jams, read_jams
from space_app.exchange_praat import format_textgrid, read_textgrid
from space_app.exchange_raven import is_raven, read_raven
from space_app.exchange_rttm import format_rttm, read_rttm
from space_app.exchange_subtitles import read_srt, read_vtt


class ExchangeFormat(NamedTuple):
    """Say what a format holds; `package` must be installed, see `AnnotationFormat` for the others.

    `format` is `None` where the checkpoint writes it, or nobody does.
    """

    name: str
    suffix: str
    holds_scores: bool
    holds_many: bool
    format: Callable | None
    read: Callable
    package: str | None = None


EXCHANGE_FORMATS = {
    kind.name: kind
    for kind in (
        ExchangeFormat("vtt", ".vtt", False, False, None, read_vtt),
        ExchangeFormat("srt", ".srt", False, False, None, read_srt),
        ExchangeFormat("rttm", ".rttm", True, True, format_rttm, read_rttm),
        ExchangeFormat("textgrid", ".TextGrid", False, False, format_textgrid, read_textgrid, "praatio"),
        ExchangeFormat("elan", ".txt", True, False, format_elan, read_elan),
        ExchangeFormat("eaf", ".eaf", False, False, format_eaf, read_eaf, "pympi"),
        ExchangeFormat("jams", ".jams", True, False, format_jams, read_jams, "jams"),
    )
}


def is_installed(kind: ExchangeFormat) -> bool:
    """Tell whether the library of a format is there."""
    return kind.package is None or importlib.util.find_spec(kind.package) is not None


def guess_exchange_format(path: str | os.PathLike) -> ExchangeFormat | None:
    """Return the format that a suffix names, or ELAN's text and Raven's tables by their first line, or `None`."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".txt", ".tsv", ".csv") and is_raven(path):
        return ExchangeFormat("raven", suffix, True, True, None, read_raven)
    if suffix in (".txt", ".tsv"):
        return EXCHANGE_FORMATS["elan"] if is_elan(path) else None
    return next((kind for kind in EXCHANGE_FORMATS.values() if kind.suffix.lower() == suffix), None)
