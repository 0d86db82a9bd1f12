"""The annotation formats that can be read, and how they are recognised.

A format is a generator of clips and an entry in [`READERS`].
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.data.clip import AnnotatedClip, read_json_clips
from recipes.data.file_start import FileStart, read_start
from recipes.data.readers.audiogrounding import read_audiogrounding
from recipes.data.readers.audioset_strong import read_audioset_strong
from recipes.data.readers.audiotime import read_audiotime
from recipes.data.readers.bioacoustics import BIRDNET_LAYOUTS, read_birdnet, read_selections
from recipes.data.readers.exchange import EXCHANGE_READERS
from recipes.data.readers.ftar import read_ftar
from recipes.data.readers.grounding_benchmarks import (
    read_aegbench,
    read_lat_bench,
    read_moment_retrieval,
    read_spotsound,
    read_trea,
)
from recipes.data.readers.kaldi import read_ctm, read_segments
from recipes.data.readers.label_studio import read_label_studio
from recipes.data.readers.lhotse import read_supervisions
from recipes.data.readers.markers import read_audition, read_label_tracks, read_reaper
from recipes.data.readers.parquet import read_parquet
from recipes.data.readers.sonic_visualiser import read_svl
from recipes.data.readers.tables import read_csv, read_desed, read_realdesed, read_tacos
from recipes.data.readers.wav_markers import read_wav_markers
from space_app.exchange_elan import is_elan_line
from space_app.exchange_praat import CHRONOLOGICAL


@dataclass(frozen=True)
class Reader:
    """How one format is read.

    Attributes:
        read: yields the clips of a path, with `audio` as named in the file; raises a `ValueError` with position, value
            and fix if the file is malformed.
        fits: whether a file can be of this format, by its start; by default the format must be named.
        lists_events: whether only recordings with events are listed, so that others are known from a table of durations
            alone.
        is_folder: whether the path may be a folder.
    """

    read: Callable[..., Iterator[AnnotatedClip]]
    fits: Callable[[FileStart], bool] = lambda start: False
    lists_events: bool = False
    is_folder: bool = False


def _table(*columns, tabs, without=()):
    """Return a test for tables with some columns, in lower case, and without others."""
    return lambda start: (
        set(columns) <= start.columns and not set(without) & start.columns and ("\t" in start.line) == tabs
    )


def _json(kind, *keys):
    return lambda start: start.has(kind, *keys)


def _line(pattern):
    return lambda start: bool(re.match(pattern, start.line, re.ASCII))


def _opening(*texts):
    # TextGrids may be UTF-16, which is ASCII with zeros in between.
    return lambda start: any(text in start.opening.replace(b"\0", b"") for text in texts)


_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
# For tables without header, as sed_eval and dcase_util write them.
_DESED_ROW = rf"[^\t]*[^\t0-9.,-][^\t]*\t{_NUMBER}\t{_NUMBER}\t[^\t]+$"
# NIST's line types.
_RTTM = r"(?:SPEAKER|SPKR-INFO|LEXEME|NON-LEX|NON-SPEECH|SEGMENT|NOSCORE|NO_RT_METADATA|SU|CB|IP|EDIT|FILLER|A/P)\s"
READERS = {
    "desed": Reader(
        read_desed,
        lambda start: _table("filename", "onset", tabs=True)(start) or _line(_DESED_ROW)(start),
        lists_events=True,
    ),
    # It also matches other delimiters, about which the reader complains.
    "csv": Reader(read_csv, _table("filename", "onset", tabs=False, without=("class", "text")), lists_events=True),
    "realdesed": Reader(read_realdesed, _table("filename", "onset", "class", tabs=False), lists_events=True),
    "tacos": Reader(read_tacos, _table("filename", "onset", "text", tabs=False), lists_events=True),
    "audioset_strong": Reader(
        read_audioset_strong,
        lambda start: {"segment_id", "start_time_seconds"} <= start.columns,
        lists_events=True,
    ),
    "ftar": Reader(read_ftar, _json("list", "question", "answer")),
    "audiogrounding": Reader(read_audiogrounding, _json("list", "audio_id", "phrases")),
    "lighthouse": Reader(read_moment_retrieval, _json("lines", "query", "relevant_windows")),
    "audiotime": Reader(read_audiotime, _json("object", "event")),
    "aegbench": Reader(
        read_aegbench, lambda start: start.has("list", "categories", "clips") or "items" in start.columns
    ),
    "spotsound": Reader(read_spotsound, _json("list", "audio_path", "caption", "annotations")),
    "lat_bench": Reader(read_lat_bench, _json("lines", "messages", "audios")),
    "trea": Reader(read_trea, _table("audio_path", "optiona", "correct", tabs=False)),
    "jsonl": Reader(read_json_clips, _json("lines", "events")),
    "parquet": Reader(read_parquet, lambda start: start.opening.startswith(b"PAR1"), is_folder=True),
    "audacity": Reader(read_label_tracks, _line(r"-?[0-9.,]+\t-?[0-9.,]+(?:\t|$)"), is_folder=True),
    "vtt": Reader(EXCHANGE_READERS["vtt"], _line(r"WEBVTT(?:\s|$)"), is_folder=True),
    "srt": Reader(
        EXCHANGE_READERS["srt"],
        lambda start: b"-->" in start.opening and not start.line.startswith("WEBVTT"),
        is_folder=True,
    ),
    "rttm": Reader(EXCHANGE_READERS["rttm"], _line(_RTTM), is_folder=True),
    "textgrid": Reader(
        EXCHANGE_READERS["textgrid"],
        _opening(b'"ooTextFile', b"ooBinaryFile", CHRONOLOGICAL.encode()),
        is_folder=True,
    ),
    "elan": Reader(EXCHANGE_READERS["elan"], lambda start: is_elan_line(start.line), is_folder=True),
    "eaf": Reader(EXCHANGE_READERS["eaf"], _opening(b"<ANNOTATION_DOCUMENT"), is_folder=True),
    "jams": Reader(
        EXCHANGE_READERS["jams"],
        lambda start: (
            {"annotations", "file_metadata"} <= start.columns or start.has("lines", "annotations", "file_metadata")
        ),
        is_folder=True,
    ),
    "raven": Reader(read_selections, lambda start: {"begin time (s)", "end time (s)"} <= start.columns, is_folder=True),
    "birdnet": Reader(
        read_birdnet, lambda start: any(layout <= start.columns for layout in BIRDNET_LAYOUTS), is_folder=True
    ),
    "audition": Reader(
        read_audition, lambda start: {"name", "start", "duration", "time format"} <= start.columns, is_folder=True
    ),
    "reaper": Reader(read_reaper, _table("#", "name", "start", "end", tabs=False), is_folder=True),
    "wav_markers": Reader(
        read_wav_markers,
        lambda start: start.opening[:4] in (b"RIFF", b"RF64") and start.opening[8:12] == b"WAVE",
        is_folder=True,
    ),
    "svl": Reader(read_svl, _opening(b"<!DOCTYPE sonic-visualiser", b"<sv>"), is_folder=True),
    "kaldi_segments": Reader(read_segments, _line(rf"\S+ +\S+ +{_NUMBER} +{_NUMBER}\s*$")),
    "ctm": Reader(
        read_ctm, _line(rf"\S+ +(?:[0-9]|[A-Z]) +{_NUMBER} +{_NUMBER} +\S+(?: +(?:{_NUMBER}|NA))?\s*$")
    ),
    "lhotse": Reader(
        read_supervisions,
        lambda start: start.opening[:2] == b"\x1f\x8b"
        or any(start.has(kind, "recording_id", "start", "duration") for kind in ("lines", "list")),
    ),
    "label_studio": Reader(
        read_label_studio,
        lambda start: any(
            start.has("list", "id", *keys)
            for keys in (("data", "annotations"), ("data", "completions"), ("annotator",))
        ),
    ),
}  # fmt: skip


def guess_format(path) -> str:
    """Return the name of the only format that fits the start of a file.

    Raises:
        ValueError: none or several fit; the message describes the file.
    """
    name = "name it by data_format (on the command line --data-format)"
    if Path(path).is_dir():
        if any(Path(path).glob("*.parquet")):
            return "parquet"
        folders = " or ".join(repr(format) for format, reader in READERS.items() if reader.is_folder)
        raise ValueError(f"{path} is a folder, which may be {folders}; if it is, {name}.")
    start = read_start(path)
    if not start.opening:
        raise ValueError(f"{path} is empty; if that is what it should be, {name}.")
    fitting = [format for format, reader in READERS.items() if reader.fits(start)]
    if len(fitting) != 1:
        said = f"fits {' and '.join(fitting)}" if fitting else "fits no known format"
        raise ValueError(f"{path} {said}: {start.found}; {name}: {', '.join(READERS)}.")
    return fitting[0]
