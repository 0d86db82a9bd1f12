"""`load_clips`: annotations of any known format as clips, for training and scoring alike."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from processing.audio_io import audio_duration
from processing.text_files import AUDIO_SUFFIXES, audio_stem, check_duration, first_line, read_number, read_table
from recipes.data.clip import AnnotatedClip
from recipes.data.formats import READERS, guess_format
from recipes.scoring import apply_aliases, read_label_aliases

logger = logging.getLogger(__name__)


def load_clips(
    source,
    data_format: str | None = None,
    audio_dir=None,
    durations=None,
    label_aliases=None,
    *,
    split: str | None = None,
    label_names=None,
    min_score: float | None = None,
    limit: int | None = None,
    needs_audio: bool = False,
    needs_duration: bool = False,
) -> list[AnnotatedClip]:
    """Return the annotated clips of a file, in order. Large files are streamed.

    Overlapping events of one label are kept, and so are events that end after their recording; a warning counts them.

    Args:
        source: annotation file; folder of label tracks or Parquet files; or, with `split`, a folder with
            `<split>.jsonl`.
        data_format: one of [`READERS`]; by default detected from the contents.
        audio_dir: folder of the recordings, by default that of the annotations. `audio` of a clip becomes a path in it;
            a name without audio suffix is looked up there, and becomes a `.wav` if nothing matches.
        durations: seconds by recording, named as in the annotations (or by `id` if they name none): a mapping, or a
            table `filename duration`. It must include every recording whose duration the annotations lack; in formats
            that list only recordings with events, its other recordings become clips without events.
        label_aliases: other names of labels: a mapping, or a file for [`read_label_aliases`]. They replace labels of
            detection clips, absent ones too, but not captions and queries.
        split: the split to read from a folder.
        label_names: display names of AudioSet's MIDs, see [`read_audioset_strong`].
        min_score: drop events with a lower score, such as uncertain pseudo-labels; their labels become `unsure`.
            Events without a score are kept.
        limit: read only the first clips.
        needs_audio: every clip must name a recording.
        needs_duration: measure missing durations from the recordings, which must exist; with `needs_audio` all
            recordings must exist.

    Raises:
        ValueError: an unknown or ambiguous format, a malformed clip (the message names file, line or JSON path, value
            and fix), repeated ids, no clips, or missing durations.
        OSError: a file is missing; all missing recordings are listed.
    """
    if data_format is not None and data_format not in READERS:
        raise ValueError(f"data_format is {data_format!r}; choose one of {', '.join(READERS)}.")
    path = Path(source)
    is_folder = (data_format and READERS[data_format].is_folder) or any(path.glob("*.parquet"))
    if split is not None and path.is_dir() and not is_folder:
        path = path / f"{split}.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"source is {str(source)!r}, but {path} does not exist; give an annotation file.")
    data_format = data_format or guess_format(path)
    if path.is_dir() and not READERS[data_format].is_folder:
        raise IsADirectoryError(f"source is {str(source)!r}, a folder; give an annotation file of {data_format!r}.")
    if label_names is not None and data_format != "audioset_strong":
        raise ValueError(f"label_names is given, but the format is {data_format!r}; only audioset_strong takes it.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; give the number of clips to read, 1 or more.")
    reader = READERS[data_format]
    clips = reader.read(path) if label_names is None else reader.read(path, label_names)
    if durations is not None:
        clips = _with_durations(clips, durations, path, reader.lists_events)
    aliases = label_aliases or {}
    if not isinstance(aliases, Mapping):
        aliases = read_label_aliases(aliases)
    find = audio_finder(audio_dir or (path if path.is_dir() else path.parent))
    found: dict[str, AnnotatedClip] = {}
    for number, clip in enumerate(islice(clips, limit), 1):
        if clip.id in found:
            first = list(found).index(clip.id) + 1
            raise ValueError(
                f"{path}: the id {clip.id!r} of clip {number} is that of clip {first} too; make ids unique."
            )
        if needs_audio and clip.audio is None:
            raise ValueError(f"{path}: clip {clip.id!r} names no recording; give it an audio path.")
        if min_score is not None:
            clip = _without_unsure(clip, min_score)
        if aliases:
            clip = _with_aliases(clip, aliases)
        audio = None if clip.audio is None else find(clip.audio)
        found[clip.id] = replace(clip, audio=audio, source=clip.source or f"{data_format}:{path.stem}")
    if not found:
        raise ValueError(f"{path} has no clips; give a file with annotations.")
    loaded = list(found.values())
    if needs_duration:
        loaded = measure_durations(loaded, check_all=needs_audio)
    _say_late_events(loaded, path)
    return loaded


def check_audio(clips) -> None:
    """Check that the recordings of clips exist, without opening them.

    Raises:
        FileNotFoundError: some do not; the message lists them.
    """
    paths = dict.fromkeys(clip.audio for clip in clips if clip.audio is not None)
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        listed = "".join(f"\n  {path}" for path in missing)
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} recordings are missing; fetch them, or give audio_dir, the folder that "
            f"the names of the annotation start from:{listed}"
        )


def measure_durations(clips, check_all: bool = False) -> list[AnnotatedClip]:
    """Return the clips, with missing durations measured from their recordings.

    Args:
        check_all: whether the recordings of all clips must exist.

    Raises:
        FileNotFoundError: recordings are missing, see [`check_audio`].
        ValueError: an unreadable recording, or a clip with neither duration nor recording.
    """
    unknown = [clip for clip in clips if clip.duration is None]
    if unnamed := [clip.id for clip in unknown if clip.audio is None]:
        raise ValueError(
            f"clip {unnamed[0]!r} ({len(unnamed)} in all) has neither duration nor audio; give one of them."
        )
    check_audio(clips if check_all else unknown)
    paths = dict.fromkeys(clip.audio for clip in unknown)
    seconds = {path: audio_duration(path) for path in tqdm(paths, desc="durations", delay=2)}
    return [replace(clip, duration=seconds[clip.audio]) if clip.duration is None else clip for clip in clips]


def audio_finder(folder):
    """Return a function from the name of a recording in an annotation to its path in a folder.

    A name without audio suffix (`YTID_30000`) is the file of that name, if it exists; else the recording of that name
    with any audio suffix; else a `.wav`.

    Raises:
        NotADirectoryError: `folder` is not a folder.
        ValueError: raised by the function if several recordings match.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"audio_dir is {str(folder)!r}, not a folder; give that of the recordings.")

    @cache
    def by_stem(folder) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if os.path.splitext(file)[1].lower() in AUDIO_SUFFIXES:
                found.setdefault(audio_stem(file), []).append(file)
        return found

    def find(name: str) -> str:
        path = name if str(folder) == "." else os.path.join(folder, name)
        if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES or os.path.isfile(path):
            return path
        files = by_stem(os.path.dirname(path) or ".").get(os.path.basename(name), [f"{os.path.basename(name)}.wav"])
        if len(files) > 1:
            raise ValueError(f"audio_dir {str(folder)!r} has {', '.join(files)} for {name!r}; leave one of them there.")
        return os.path.join(os.path.dirname(path), files[0])

    return find


def _with_durations(clips, durations, path, lists_events) -> Iterator[AnnotatedClip]:
    if isinstance(durations, Mapping):
        seconds = {name: check_duration(value, f"durations[{name!r}]") for name, value in durations.items()}
    else:
        seconds = _read_durations(durations)
    named, missing = set(), {}
    for clip in clips:
        name = clip.audio or clip.id
        named.add(name)
        if clip.duration is None:
            if name in seconds:
                clip = replace(clip, duration=seconds[name])
            else:
                missing[name] = None
        yield clip
    if missing:
        listed = "".join(f"\n  {name}" for name in missing)
        raise ValueError(f"durations lacks {len(missing)} recordings of {path}; add them:{listed}")
    silent = [name for name in seconds if name not in named] if lists_events else []
    if silent:
        logger.warning("%s: %d recordings are in durations alone: clips without events.", path, len(silent))
    for name in silent:
        yield AnnotatedClip(name, (), name, seconds[name])


def _read_durations(path) -> dict[str, float]:
    """Return `{filename: seconds}` from a table `filename duration`, separated by tabs or commas.

    Raises:
        ValueError: a malformed line, or two durations for one recording.
    """
    header = first_line(path)
    durations = {}
    for where, fields in read_table(path, ("filename", "duration"), "\t" if "\t" in header else ","):
        duration = check_duration(read_number(fields["duration"], "duration", where), where)
        known = durations.setdefault(fields["filename"], duration)
        if known != duration:
            raise ValueError(f"{where}: {fields['filename']!r} lasts {duration} s, but {known} s further up; keep one.")
    return durations


def _with_aliases(clip, aliases) -> AnnotatedClip:
    if clip.task != "detection":
        return clip
    names = {
        name: tuple(aliases.get(label, label) for label in getattr(clip, name))
        for name in ("absent", "unsure")
        if getattr(clip, name) is not None
    }
    return replace(clip, events=apply_aliases(clip.events, aliases), **names)


def _without_unsure(clip, min_score) -> AnnotatedClip:
    kept = [event for event in clip.events if event.score is None or event.score >= min_score]
    unsure = {event.event_label for event in clip.events} - {event.event_label for event in kept} - {""}
    return replace(clip, events=kept, unsure=(*clip.unsure, *sorted(unsure)))


def _say_late_events(clips, path):
    """Warn about events that end after their recordings; they are kept as they are."""
    late = [
        (clip.id, event.offset, clip.duration)
        for clip in clips
        if clip.duration is not None
        for event in clip.events
        if event.offset > clip.duration
    ]
    if late:
        logger.warning("%s: %d events end after the recording, such as in %r: %s > %s s.", path, len(late), *late[0])
