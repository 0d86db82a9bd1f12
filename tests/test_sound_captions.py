"""Sounds in subtitles and beside diarisations: speech stays, captions keep the rules, other programs read them."""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.cli.beside_speech import add_to_speakers
from recipes.cli.main import main
from recipes.cli.sound_captions import CaptionRules, caption_text, place_captions, weave_captions
from recipes.data.label_files import read_labels
from space_app.exchange_subtitles import read_cues

RULES = CaptionRules()
SRT = (
    "1\n00:00:00,500 --> 00:00:01,100 X1:1 X2:2\n{\\an8}<i>Hello.</i>\nAnd you?\n\n"
    "2\n00:00:04,000 --> 00:00:05,000\nBye.\n"
)
VTT = (
    "WEBVTT - film\n\nSTYLE\n::cue { color: red }\n\nNOTE by hand\n\nfirst\n00:00.500 --> 00:01.100 align:start\n"
    "<v Ann>Hello &amp; you?\n\n00:04.000 --> 00:05.000\nBye.\n"
)

milliseconds = st.integers(0, 60_000)
spans = st.tuples(milliseconds, milliseconds).map(sorted).map(tuple)
sounds = st.builds(
    lambda span, label: Event(span[0] / 1000, span[1] / 1000, label),
    spans,
    st.sampled_from(["dog bark", "thunder", "siren", "Speech", "a very long label of a sound that takes time to read"]),
)


@given(st.lists(sounds, max_size=12), st.lists(spans, max_size=12), st.none() | st.integers(1000, 60_000))
def test_captions_keep_the_rules(events, speech, end):
    captions, without_room = place_captions(events, speech, RULES, end)
    assert captions == sorted(captions)
    others = list(speech)
    for onset, offset, text in captions:
        # On screen long enough to be read, and never longer than a sound needs.
        assert RULES.reading_time(text) <= offset - onset <= max(RULES.longest, RULES.reading_time(text))
        assert offset - onset >= RULES.shortest and (end is None or offset <= end)
        # A gap before and after speech and other captions.
        assert all(offset + RULES.margin <= start or stop + RULES.margin <= onset for start, stop in others)
        others.append((onset, offset))
        # While its sound lasts, or shortly after; never before.
        label = next(e.event_label for e in events if caption_text(e.event_label) == text)
        mine = [e for e in events if e.event_label == label]
        assert min(e.onset for e in mine) * 1000 <= onset <= max(e.offset for e in mine) * 1000 + RULES.delay
    assert not any("peech" in text for *_, text in captions)
    # Every sound once: a caption, or no room for it.
    for label in {event.event_label for event in events} - {"Speech"}:
        runs, last = 0, None
        for event in sorted(e for e in events if e.event_label == label):
            runs += last is None or 1000 * (event.onset - last) >= RULES.join
            last = event.offset if last is None else max(last, event.offset)
        count = sum(text == caption_text(label) for *_, text in captions)
        assert count + sum(event.event_label == label for event in without_room) == runs


@given(st.lists(sounds, max_size=8), st.sampled_from(["film.srt", "film.vtt"]))
def test_speech_stays_as_it_is(tmp_path_factory, events, name):
    folder, is_vtt = tmp_path_factory.mktemp("film"), name.endswith("vtt")
    path = folder / name
    path.write_text(VTT if is_vtt else SRT)
    lines, cues = read_cues(path, is_vtt)
    captions, _ = place_captions(events, [(cue.onset, cue.offset) for cue in cues])
    text = weave_captions(lines, cues, captions, is_vtt)
    (folder / f"woven.{name[-3:]}").write_text(text)
    _, woven = read_cues(folder / f"woven.{name[-3:]}", is_vtt)
    assert [(cue.onset, cue.offset, cue.text) for cue in woven] == sorted(
        [(cue.onset, cue.offset, cue.text) for cue in cues] + captions
    )
    spoken = [cue for cue in woven if not cue.text.startswith("[")]
    assert [cue.lines[-2:] for cue in spoken] == [cue.lines[-2:] for cue in cues]
    if is_vtt:
        # Header, style and note too.
        assert [line for line in text.split("\n") if line in lines] and text.startswith(VTT.split("first")[0].strip())
    else:
        assert [cue.lines[0] for cue in woven] == [str(number) for number in range(1, len(woven) + 1)]
    if not captions:
        assert text == (VTT if is_vtt else SRT)


def test_a_long_sound_is_captioned_once_and_close_ones_together():
    rain, dogs = Event(0, 50, "rain"), [Event(10, 11, "dog bark"), Event(12, 13, "dog bark"), Event(20, 21, "dog bark")]
    captions, _ = place_captions([rain, *dogs], [])
    assert captions == [(0, 5000, "[rain]"), (10_000, 13_000, "[dog barks]"), (20_000, 21_000, "[dog barks]")]
    # Under speech it waits for the first gap.
    assert place_captions([rain], [(0, 8000), (8100, 9000)])[0] == [(9080, 14_080, "[rain]")]


@pytest.mark.parametrize(
    "label, text",
    [
        ("dog bark", "[dog barks]"), ("Dog_bark", "[dog barks]"), ("thunder", "[thunder]"), ("cough", "[cough]"),
        ("car horn", "[car honks]"), ("glass breaking", "[glass breaking]"),
    ],
)  # fmt: skip
def test_captions_say_who_is_heard_where_the_label_does(label, text):
    assert caption_text(label) == text


@pytest.fixture
def film(tmp_path, scripted_checkpoint):
    """Return arguments that detect a dog bark from 1.20 to 3.44 s in a recording of 6 s."""
    sound = np.random.default_rng(0).standard_normal(6 * 16000)
    soundfile.write(tmp_path / "film.wav", 0.1 * sound, 16000)
    (tmp_path / "film.srt").write_text(SRT)
    (tmp_path / "film.vtt").write_text(VTT)
    model = str(scripted_checkpoint("dog bark: <1.20>-<3.44>"))
    return tmp_path, ["detect", str(tmp_path / "film.wav"), "--model", model]


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_players_read_subtitles_with_sounds(kind, film, capsys):
    webvtt, pysubs2 = pytest.importorskip("webvtt"), pytest.importorskip("pysubs2")
    folder, arguments = film
    out = folder / f"film.sdh.{kind}"
    assert main([*arguments, "--subtitles", str(folder / f"film.{kind}"), "--out", str(out)]) == 0
    assert f"wrote {out} with 1 caption." in capsys.readouterr().err
    captions = list(webvtt.read(str(out)) if kind == "vtt" else webvtt.from_srt(str(out)))
    times = [("00:00:00.500", "00:00:01.100"), ("00:00:01.200", "00:00:03.440"), ("00:00:04.000", "00:00:05.000")]
    assert [(caption.start, caption.end) for caption in captions] == times
    assert captions[1].text == "[dog barks]" and captions[2].text == "Bye."
    found = pysubs2.load(str(out))
    assert [(line.start, line.end, line.plaintext) for line in found][1:] == [
        (1200, 3440, "[dog barks]"), (4000, 5000, "Bye."),
    ]  # fmt: skip


def test_events_beside_a_diarisation(film):
    util = pytest.importorskip("pyannote.database.util")
    folder, arguments = film
    lines = ["SPEAKER film 1 0.50 0.60 <NA> <NA> ann <NA> <NA>\n", "SPEAKER film 1 4.0 1.0 <NA> <NA> bob <NA> <NA>\n"]
    (folder / "talk.rttm").write_text("".join(lines))
    out = folder / "all.rttm"
    assert main([*arguments, "--speakers", str(folder / "talk.rttm"), "--out", str(out)]) == 0
    assert [line for line in out.read_text().splitlines(keepends=True) if line in lines] == lines
    annotation = util.load_rttm(str(out))["film"]
    assert [(round(segment.start, 3), label) for segment, _, label in annotation.itertracks(yield_label=True)] == [
        (0.5, "ann"), (1.2, "dog_bark"), (4.0, "bob"),
    ]  # fmt: skip
    (recording,) = read_labels(out)
    assert [event["event_label"] for event in recording["events"]] == ["ann", "dog bark", "bob"]


def test_a_speaker_is_not_called_as_a_sound(tmp_path):
    path = tmp_path / "talk.rttm"
    path.write_text("SPEAKER a 1 0 1 <NA> <NA> dog <NA> <NA>\nSPEAKER b 1 0 1 <NA> <NA> ann <NA> <NA>\n")
    with pytest.raises(ValueError, match="has a speaker 'dog', the label of an event too"):
        add_to_speakers(path, "x/a.wav", [Event(0, 1, "dog")])
    with pytest.raises(ValueError, match="is about a, b, not about 'c'"):
        add_to_speakers(path, "c.wav", [])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--subtitles", "film.srt"], "--subtitles is about one recording; give one, and --out FILE"),
        (["--subtitles", "film.srt", "--out", "a.vtt"], "both must end in the same of .srt, .vtt"),
        (["--subtitles", "film.srt", "--out", "film.srt"], "the file that --subtitles names"),
        (["--subtitles", "film.srt", "--out", "a.srt", "--format", "srt"], "sets the format; leave out"),
        (["--subtitles", "film.srt", "--speakers", "talk.rttm", "--out", "a.srt"], "given with --speakers"),
    ],
)
def test_arguments_that_do_not_fit(options, message, film, capsys, monkeypatch):
    folder, arguments = film
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        main([*arguments, *options])
    assert message in capsys.readouterr().err
