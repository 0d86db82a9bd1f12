"""Captions of sounds for deaf viewers, in the gaps of existing subtitles; docs/subtitles.md has the rules."""

import html
from collections.abc import Iterable
from dataclasses import dataclass

from processing.annotations import cue_time
from processing.events import Event
from recipes.data.label_phrases import PHRASES
from space_app.exchange_subtitles import Cue

# Words in labels of speech, which the subtitles already contain.
SPEECH = {"speech", "speaking", "talking", "conversation", "narration", "monologue", "chatter", "babble"}


@dataclass(frozen=True)
class CaptionRules:
    """Timing of captions, in milliseconds except for the reading speed.

    Args:
        shortest, longest: minimum and maximum time on screen.
        characters_per_second: reading speed, which determines the time on screen of longer captions.
        margin: gap before and after speech, and between captions.
        join: sounds of one label with a shorter gap are joined.
        delay: a caption starts at most this long after the end of its sound.
    """

    shortest: int = 1000
    longest: int = 5000
    characters_per_second: float = 17.0
    margin: int = 80
    join: int = 3000
    delay: int = 1000

    def reading_time(self, text: str) -> int:
        """Return the minimum time on screen of a caption."""
        return max(self.shortest, round(1000 * len(text) / self.characters_per_second))


def caption_text(label: str) -> str:
    """Return the text of a caption: `[dog barks]` if the label names the source, else `[thunder]`."""
    label = label.replace("_", " ").strip()
    subject, verb, _ = PHRASES.get(label.lower(), ("", "", ""))
    article, _, noun = subject.partition(" ")
    is_said = article in ("a", "an") and set(noun.split()) <= set(label.lower().split())
    return f"[{noun} {verb}]" if is_said else f"[{label}]"


def place_captions(
    events: Iterable[Event],
    speech: Iterable[tuple[int, int]],
    rules: CaptionRules = CaptionRules(),
    end: int | None = None,
) -> tuple[list[tuple[int, int, str]], list[Event]]:
    """Return captions `(onset, offset, text)` in milliseconds, and the sounds without room.

    Args:
        events: sounds; speech is ignored.
        speech: `(onset, offset)` of all subtitles, in milliseconds; may overlap.
        end: end of the recording in milliseconds.
    """
    taken = sorted(speech)
    captions, without_room = [], []
    for event in _joined(events, rules.join):
        text, first = caption_text(event.event_label), round(1000 * event.onset)
        last = round(1000 * event.offset) + rules.delay
        found = _find_room(taken, first, last, rules.reading_time(text), rules.margin, end)
        if found is None:
            without_room.append(event)
            continue
        onset, free = found
        wanted = max(rules.reading_time(text), min(rules.longest, round(1000 * event.offset) - onset))
        caption = (onset, min(onset + wanted, free), text)
        captions.append(caption)
        taken = sorted([*taken, caption[:2]])
    return sorted(captions), without_room


def weave_captions(lines: list[str], cues: list[Cue], captions: list[tuple[int, int, str]], is_vtt: bool) -> str:
    """Return a subtitle file with captions inserted; its own lines are unchanged, except for SubRip's numbers.

    Args:
        lines, cues: from [`~space_app.exchange_subtitles.read_cues`].
        captions: from [`place_captions`].
    """
    before: dict[int, list] = {}
    for caption in captions:
        place = next((cue.first for cue in cues if cue.onset >= caption[0]), len(lines))
        before.setdefault(place, []).append(caption)
    starts, number, written = {cue.first for cue in cues}, 0, []
    for index, line in enumerate([*lines, None]):
        for onset, offset, text in before.get(index, ()):
            number += 1
            if written and written[-1].strip():
                written.append("")
            point = "." if is_vtt else ","
            times = f"{cue_time(onset, point)} --> {cue_time(offset, point)}"
            written += [times, html.escape(text, quote=False), ""] if is_vtt else [str(number), times, text, ""]
        if line is None:
            break
        number += index in starts
        written.append(str(number) if index in starts and not is_vtt and line.strip().isdigit() else line)
    return "\n".join(written).rstrip("\n") + "\n"


def _joined(events, gap: int) -> list[Event]:
    """Return sounds without speech, sorted by onset, joining those of one label that are close together."""
    joined: dict[str, list[Event]] = {}
    for event in sorted(events):
        if SPEECH & set(event.event_label.lower().replace("_", " ").replace(",", " ").split()) or not event.event_label:
            continue
        mine = joined.setdefault(event.event_label, [])
        if mine and 1000 * (event.onset - mine[-1].offset) < gap:
            event = Event(mine[-1].onset, max(mine.pop().offset, event.offset), event.event_label)
        mine.append(event)
    return sorted(event for mine in joined.values() for event in mine)


def _find_room(taken, first: int, last: int, length: int, margin: int, end: int | None) -> tuple[int, int] | None:
    """Return the first time from `first` to `last` with enough room, and the end of the room."""
    onset = first
    for start, stop in taken:
        if stop + margin <= onset:
            continue
        if onset + length <= start - margin:
            break
        onset = stop + margin
    if onset > last:
        return None
    free = min([start - margin for start, _ in taken if start >= onset] + [onset + 10**9 if end is None else end])
    return (onset, free) if onset + length <= free else None
