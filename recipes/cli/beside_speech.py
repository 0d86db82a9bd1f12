"""`--subtitles` and `--speakers`: add detected sounds to existing subtitles or an existing diarisation."""

import sys
from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path

from processing.annotations import format_annotations
from processing.events import Event
from processing.text_files import audio_stem, read_lines
from recipes.cli.sound_captions import place_captions, weave_captions
from recipes.data.label_files import label_format, read_labels
from space_app.exchange_subtitles import read_cues


def add_speech_arguments(output):
    """Add `--subtitles` and `--speakers` to a group of arguments."""
    output.add_argument(
        "--subtitles", metavar="FILE", help="SubRip or WebVTT subtitles of the speech: write them to --out, with the "
        "detected sounds as captions in the gaps, such as [dog barks]",
    )  # fmt: skip
    output.add_argument(
        "--speakers", metavar="RTTM", help="diarisation of the recording: write it to --out with the detected sounds"
    )


def check_speech_arguments(args, files: list[str], is_folder: bool) -> str | None:
    """Return the format to write, `None` if neither argument is given.

    Raises:
        argparse.ArgumentError: inconsistent arguments.
        OSError, ValueError: a missing or malformed file.
    """
    name = "subtitles" if args.subtitles else "speakers"
    given = getattr(args, name)
    if not given:
        return None
    if args.subtitles and args.speakers:
        raise ArgumentError(None, "--subtitles given with --speakers; run the command for each.")
    if args.out is None or is_folder or len(files) != 1:
        raise ArgumentError(None, f"--{name} is about one recording; give one, and --out FILE.")
    if args.json or args.format:
        raise ArgumentError(None, f"--{name} sets the format; leave out --json and --format.")
    if Path(args.out).resolve() == Path(given).resolve():
        raise ArgumentError(None, f"--out is {args.out!r}, the file that --{name} names; choose another.")
    suffixes = (".srt", ".vtt") if args.subtitles else (".rttm",)
    suffix = Path(given).suffix.lower()
    if suffix not in suffixes or Path(args.out).suffix.lower() != suffix:
        raise ArgumentError(
            None, f"--{name} is {given!r} and --out {args.out!r}; both must end in the same of {', '.join(suffixes)}."
        )  # fmt: skip
    # Find malformed files before processing recordings.
    if args.subtitles:
        read_cues(given, suffix == ".vtt")
    else:
        _speaker_recording(given, files[0])
    return suffix[1:]


def write_beside_speech(args, row: dict, events: list[dict]):
    """Write a recording's events to `args.out`, and report those without room.

    Args:
        row: `file` and `duration` of the recording.
        events: from the pipeline, times in seconds.
    """
    found = [Event.from_dict(event) for event in events]
    if args.subtitles:
        is_vtt = Path(args.subtitles).suffix.lower() == ".vtt"
        lines, cues = read_cues(args.subtitles, is_vtt)
        speech = [(cue.onset, cue.offset) for cue in cues]
        captions, without_room = place_captions(found, speech, end=int(1000 * row["duration"]))
        text, what = weave_captions(lines, cues, captions, is_vtt), _count(captions, "caption")
        if without_room:
            listed = ", ".join(f"{event.event_label} at {event.onset:.2f} s" for event in without_room[:5])
            print(f"timepro: {len(without_room)} sounds found no room between speech: {listed}.", file=sys.stderr)
    else:
        text, what = add_to_speakers(args.speakers, row["file"], found), _count(found, "event")
    Path(args.out).write_bytes(text.encode("utf-8"))
    print(f"timepro: wrote {args.out} with {what}.", file=sys.stderr)


def add_to_speakers(path, file: str, events: Iterable[Event]) -> str:
    """Return the unchanged lines of a diarisation together with those of events, in order of their onsets.

    Args:
        path: an RTTM file about one recording, or several of which one has the recording's name.
        file: the recording.

    Raises:
        ValueError: the recording is not in the file, or an event has the name of a speaker.
    """
    name, speakers = _speaker_recording(path, file)
    events = list(events)
    if clash := speakers & {event.event_label for event in events}:
        raise ValueError(f"{path} has a speaker {clash.pop()!r}, the label of an event too; rename the speaker.")
    if not events:
        return "".join(read_lines(path))
    ours = format_annotations({"file": name, "events": events}, label_format("rttm")).splitlines(keepends=True)
    comments = [line for line in ours if line.startswith(";;")]
    theirs = [line if line.endswith("\n") else line + "\n" for line in read_lines(path)]
    timed = sorted(
        (line for line in [*theirs, *ours] if line.startswith("SPEAKER")), key=lambda line: float(line.split()[3])
    )
    return "".join([*comments, *(line for line in theirs if not line.startswith("SPEAKER")), *timed])


def _speaker_recording(path, file) -> tuple[str, set[str]]:
    """Return the name of a recording in a diarisation, and its speakers."""
    recordings = {recording["file"]: recording["events"] for recording in read_labels(path, "rttm")}
    name = next(iter(recordings)) if len(recordings) == 1 else audio_stem(file)
    if name not in recordings:
        listed = ", ".join(recordings) or "nobody"
        raise ValueError(f"{path} is about {listed}, not about {name!r}; give the diarisation of the recording.")
    return name, {event["event_label"] for event in recordings[name]}


def _count(things, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
