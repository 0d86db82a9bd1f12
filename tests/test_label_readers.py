"""What the tools of the trade write is read: each format told from its contents, and with the events that it holds."""

# Lines of files are kept whole.
# ruff: noqa: E501

import gzip
import json
import struct
from pathlib import Path

import pytest

from recipes.cli.main import main
from recipes.data.formats import READERS, guess_format
from recipes.data.loading import load_clips

LABELS = Path(__file__).parent / "fixtures" / "labels"
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
LAT = "<audio>Please listen to the audio carefully and locate %s Please strictly output the result in the format of [Start Time - End Time]. Do not output any extra explanatory text."

# Files as programs write them: format, events as (onset, offset, label), further values of the clip.
FILES = {
    "caps.tsv": ("desed", [(0.5, 1.25, "dog")], {"audio": "a.wav"}),
    "label_nfd.tsv": ("desed", [(0.5, 1.25, "caf\u00e9")], {"audio": "a.wav"}),
    "csv_space_after_comma.csv": ("csv", [(0.5, 1.25, "dog"), (2, 3, "cat")], {"audio": "a.wav"}),
    "comma.txt": ("audacity", [(0.5, 1.25, "dog")], {}),
    "negative.txt": ("audacity", [(0, 1.25, "dog"), (2, 3, "cat")], {}),
    "coords.srt": ("srt", [(156.389, 159.29, "dog")], {}),
    "two_digit_ms.srt": ("srt", [(27.46, 29.83, "dog"), (30.5, 31, "cat")], {}),
    "no_blank_after_header.vtt": ("vtt", [(1, 2, "dog"), (3, 4, "cat")], {}),
    "youtube_auto.vtt": (
        "vtt",
        [(0.03, 2.389, "dog barks loudly"), (2.389, 2.399, "dog barks loudly"),
         (2.399, 4, "dog barks loudly siren wails")],
        {},
    ),
    "from_3s.TextGrid": ("textgrid", [(3, 4, "dog")], {"duration": 5.0}),
    "old_short.TextGrid": ("textgrid", [(0, 2.5, "dog"), (1.25, 1.25, "ding")], {"duration": 5.0}),
    "latin1.TextGrid": ("textgrid", [(0, 2.5, "chien m\u00e9chant")], {"duration": 5.0}),
    "lexeme.rttm": ("rttm", [(1.5, 2.25, "dog")], {"audio": "meeting"}),
    "elan_full.txt": ("elan", [(0.5, 1.25, "dog")], {}),
    "raven.txt": ("raven", [(0.5, 1.25, "dog")], {}),
    "scaper.jams": ("jams", [(1, 1.5, "dog_bark")], {"duration": 10.0}),
}  # fmt: skip


def riff(*chunks, kind=b"WAVE"):
    body = kind + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def listed(*chunks):
    return riff(*chunks, kind=b"adtl")[8:]


FMT = (b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16))
POINTS = [struct.pack("<II4sIII", number, 0, b"data", 0, 0, sample) for number, sample in ((1, 4000), (2, 8000))]
MARKED = riff(
    FMT, (b"data", b"\0" * 32001), (b"cue ", struct.pack("<I", 2) + b"".join(POINTS)),
    (b"LIST", listed((b"ltxt", struct.pack("<II4sHHHH", 1, 6000, b"rgn ", 0, 0, 0, 0)),
                     (b"labl", struct.pack("<I", 1) + b"dog\0"), (b"labl", struct.pack("<I", 2) + "caf\u00e9".encode("latin-1") + b"\0"))),
)  # fmt: skip

SVL = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE sonic-visualiser>\n<sv><data>\n<model id="1" name="" '
    'sampleRate="44100" start="0" end="88200" type="sparse" dimensions="3" resolution="1" subtype="region" units="" />\n'
    '<dataset id="0" dimensions="3"><point frame="22050" value="1" duration="33075" label="dog" /></dataset></data></sv>'
)
STUDIO = {
    "id": 7,
    "data": {"audio": "/data/upload/1/1a2b3c4d-night.wav"},
    "annotations": [
        {"was_cancelled": True, "result": [{"value": {"start": 0, "end": 1, "labels": ["no"]}}]},
        {
            "result": [
                {
                    "type": "labels",
                    "original_length": 10.0,
                    "value": {"start": 0.5, "end": 1.25, "labels": ["dog", "bark"]},
                },
                {"type": "textarea", "value": {"start": 0.5, "end": 1.25, "text": ["woof"]}},
                {"type": "choices", "value": {"choices": ["outdoors"]}},
            ]
        },
    ],
}
AEG = {"id": "x", "audio_path": "data/x.wav", "duration": 9, "categories": ["dog", "cat"],
       "clips": [{"category": "dog", "start": 0.5, "end": 1.25}], "source": "s", "hardcase_tags": []}  # fmt: skip
DOG = [(0.5, 1.25, "dog")]

# Further files, by name: content, format, and clips as (audio, events, further values).
WRITTEN = {
    "night.Table.1.selections.txt": (
        f"{RAVEN}\tAnnotation\n1\tWaveform 1\t1\t0.5\t1.25\t0\t0\tdog\n1\tSpectrogram 1\t1\t0.5\t1.25\t9\t99\tdog\n",
        "raven", [("night", DOG, {})],
    ),
    "open_together.txt": (
        f"{RAVEN}\tBegin File\tFile Offset (s)\tSpecies\n1\tSpectrogram 1\t1\t0.5\t1.25\t9\t99\ta.wav\t0.5\tdog\n"
        "2\tSpectrogram 1\t1\t60.5\t61.25\t9\t99\tb.wav\t0.5\tdog\n",
        "raven", [("a.wav", DOG, {}), ("b.wav", DOG, {})],
    ),
    "rec.BirdNET.selection.table.txt": (
        f"{RAVEN}\tCommon Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)\n"
        "1\tSpectrogram 1\t1\t0\t3.0\t0\t15000\tTawny Owl\ttawowl1\t0.75\tC:\\data\\rec.wav\t0\n"
        "2\tSpectrogram 1\t1\t3.0\t6.0\t0\t15000\tnocall\tnocall\t0.1\tC:\\data\\rec.wav\t3.0\n",
        "raven", [("rec.wav", [(0, 3, "Tawny Owl")], {"scores": [0.75]})],
    ),
    "rec.BirdNET.results.csv": (
        "Start (s),End (s),Scientific name,Common name,Confidence\n0.0,3.0,Strix aluco,Tawny Owl,0.75\n",
        "birdnet", [("rec", [(0, 3, "Tawny Owl")], {"scores": [0.75]})],
    ),
    "combined.csv": (
        "\ufeffStart (s),End (s),Scientific name,Common name,Confidence,File\n0,3,Strix aluco,,0.5,/x/a.wav\n0,3,S,B,1,b.wav\n",
        "birdnet", [("a.wav", [(0, 3, "Strix aluco")], {}), ("b.wav", [(0, 3, "B")], {})],
    ),
    "for_r.csv": (
        "filepath,start,end,scientific_name,common_name,confidence,lat,lon\n/x/a.wav,0.5,1.25,S,dog,0.5,1,2\n",
        "birdnet", [("a.wav", DOG, {"scores": [0.5]})],
    ),
    "kaleidoscope.csv": (
        "INDIR,FOLDER,IN FILE,OFFSET,DURATION,scientific_name,common_name,confidence\n/x,y,a.wav,0.5,0.75,S,dog,1\n",
        "birdnet", [("a.wav", DOG, {})],
    ),
    "raven_with_commas.csv": (
        f"{RAVEN}\tSpecies\n1\tWaveform 1\t1\t0.5\t1.25\t0\t0\tdog\n".replace("\t", ","),
        "raven", [("raven_with_commas", DOG, {})],
    ),
    "without_header.tsv": ("a.wav\t0.5\t1.25\tdog\n", "desed", [("a.wav", DOG, {})]),
    "of_a_spreadsheet.tsv": (
        "filename\tonset\toffset\tevent_label\na.wav\t0.5\t1.25\tdog\t\t\n", "desed", [("a.wav", DOG, {})],
    ),
    "of_timepro.jsonl": (
        '{"file": "x/a.wav", "duration": 2.0, "events": [{"onset": 0.5, "offset": 1.25, "event_label": "dog"}], '
        '"truncated": true}\n',
        "jsonl", [("x/a.wav", DOG, {"duration": 2.0})],
    ),
    "chronological.TextGrid": (
        '"Praat chronological TextGrid text file"\n0 2   ! Time domain.\n2   ! Number of tiers.\n'
        '"IntervalTier" "x" 0 2\n"TextTier" "y" 0 2\n\n1 0 0.5\n""\n\n2 0.25\n"click"\n\n1 0.5 1.25\n"dog"\n\n'
        '1 1.25 2\n""\n',
        "textgrid", [("chronological", [*DOG, (0.25, 0.25, "click")], {"duration": 2.0})],
    ),
    "supervisions.json": (
        json.dumps([{"id": "s", "recording_id": "rec", "start": 0.5, "duration": 0.75, "text": "dog"}]),
        "lhotse", [("rec", DOG, {})],
    ),
    "empty_line.srt": (
        "1\n00:00:00,500 --> 00:00:01,250\ndog\n\nfar off\n\n2\n00:00:02,000 --> 00:00:03,000\ncat\n",
        "srt", [("empty_line", [(0.5, 1.25, "dog far off"), (2, 3, "cat")], {})],
    ),
    "soundscape.jams": (
        (LABELS / "scaper.jams").read_text().replace('"namespace": "scaper"', '"namespace": "sound_event"'),
        "jams", [("soundscape", [(1, 1.5, "dog_bark")], {"duration": 10.0})],
    ),
    "pretty.jams": (
        json.dumps(json.loads((LABELS / "scaper.jams").read_text().replace("foreground", "background")), indent=2),
        "jams", [("pretty", [], {"duration": 10.0})],
    ),
    "studio.json": (
        json.dumps([STUDIO]),
        "label_studio",
        [("1a2b3c4d-night.wav", [(0.5, 1.25, "dog"), (0.5, 1.25, "bark")], {"id": "7", "duration": 10.0})],
    ),
    "studio_min.json": (
        json.dumps([{"id": 1, "audio": "/data/local-files/?d=field/a.wav", "annotator": 1, "lead_time": 2.5,
                     "label": [{"start": 0.5, "end": 1.25, "channel": 0, "labels": ["dog"]}]}]),
        "label_studio", [("a.wav", DOG, {})],
    ),
    "audition.csv": (
        "Name\tStart\tDuration\tTime Format\tType\tDescription\ndog\t0:00.500\t0:00.750\tdecimal\tCue\t\n"
        "bell\t1:01:02.003\t0:00.000\tdecimal\tCue\t\n",
        "audition", [("audition", [*DOG, (3662.003, 3662.003, "bell")], {})],
    ),
    "reaper.csv": (
        '#,Name,Start,End,Length,Color\nR1,dog,0:00.500,0:01.250,0:00.750,FF0000\nM1,"a, b",1:02.500,,,\nR2,x,3.5,4.25,0.75,\n',
        "reaper", [("reaper", [*DOG, (62.5, 62.5, "a, b"), (3.5, 4.25, "x")], {})],
    ),
    "marked.wav": (MARKED, "wav_markers", [("marked.wav", [*DOG, (1, 1, "caf\u00e9")], {})]),
    "layer.svl": (SVL, "svl", [("layer", DOG, {})]),
    "talk.ctm": (
        ";; comment\nrec 1 0.5 0.75 dog 0.9\nrec A 2.00 1 cat\nb 1 0 1 x NA\n",
        None, [("rec", [*DOG, (2, 3, "cat")], {"scores": [0.9, None]}), ("b", [(0, 1, "x")], {})],
    ),
    "plain.ctm": ("rec 1 0.5 0.75 dog 0.9\n", "ctm", [("rec", DOG, {})]),
    "supervisions.jsonl": (
        json.dumps({"id": "s", "recording_id": "rec", "start": 0.5, "duration": 0.75, "channel": 0, "text": "dog"}),
        "lhotse", [("rec", DOG, {})],
    ),
    "supervisions.jsonl.gz": (
        gzip.compress(json.dumps({"id": "s", "recording_id": "rec", "start": 0.5, "duration": 0.75,
                                  "custom": {"audio_event": "dog"}}).encode()),
        "lhotse", [("rec", DOG, {})],
    ),
    "annotations.csv": ("filename,onset,offset,class,annotator\na.wav,0.5,1.25,dog,3\n", "realdesed", [("a.wav", DOG, {})]),
    "annotations_strong.csv": (
        'filename,text,onset,offset\na.wav,"a dog, far off",0.5,1.25\n',
        "tacos", [("a.wav", [(0.5, 1.25, "a dog, far off")], {"task": "captioning"})],
    ),
    "aegbench.json": (
        json.dumps([AEG]),
        "aegbench", [("data/x.wav", DOG, {"query": "dog", "duration": 9.0}), ("data/x.wav", [], {"query": "cat"})],
    ),
    "aegbench_items.json": (
        json.dumps({"revision": "1", "items": [AEG]}, indent=1),
        "aegbench", [("data/x.wav", DOG, {"query": "dog"}), ("data/x.wav", [], {"query": "cat"})],
    ),
    "spotsound.json": (
        json.dumps([{"audio_path": "a.wav", "caption": "dog", "annotations": [[0.5, 1.25]]},
                    {"audio_path": "a.wav", "caption": "a cat", "annotations": [1, 2]}]),
        "spotsound", [("a.wav", DOG, {"query": "dog"}), ("a.wav", [(1, 2, "a cat")], {"query": "a cat"})],
    ),
    "bench-EN-TAG.jsonl": (
        json.dumps({"audios": ["id1"], "messages": [{"role": "user", "content": LAT % "where a dog barks."},
                                                    {"role": "assistant", "content": "[00:12-01:22]"}]}),
        "lat_bench", [("id1", [(12, 82, "where a dog barks.")], {"query": "where a dog barks."})],
    ),
    "export.txt": (
        "sounds\t\t00:00:00.500\t0.5\t00:00:01.250\t1.25\t00:00:00.750\t0.75\tdog\nothers\t\t00:00:00.500\t0.5\t"
        "00:00:01.250\t1.25\t00:00:00.750\t0.75\tcat\n",
        "elan", [("export", [*DOG, (0.5, 1.25, "cat")], {})],
    ),
    "columns.txt": (
        "Begin Time - msec\tEnd Time - msec\tdogs\tcats\n500\t1250\tdog\t\n500\t1250\t\tcat\n",
        "elan", [("columns", [*DOG, (0.5, 1.25, "cat")], {})],
    ),
    "short.TextGrid": (
        ('File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n"IntervalTier"\n"a"\n0\n2\n2\n0\n0.5\n""\n'
         '0.5\n1.25\n"dog"\n').encode("utf-16"),
        "textgrid", [("short", DOG, {"duration": 2.0})],
    ),
    "meeting.rttm": (
        "SPKR-INFO my_night 1 <NA> <NA> <NA> unknown dog <NA> <NA>\n;; my_night my_night=my%20night\n"
        ";; my_night dog_bark=dog%20bark\nSPEAKER my_night 1 0.5 0.75 <NA> <NA> dog_bark <NA> <NA>\n"
        "SPEAKER my_night 1 2 1 <NA> <NA> car_horn <NA> <NA>\n",
        "rttm", [("my night", [(0.5, 1.25, "dog bark"), (2, 3, "car_horn")], {})],
    ),
}  # fmt: skip


def write(folder, name):
    path, content = folder / name, WRITTEN[name][0]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found_in(clip):
    return [(event.onset, event.offset, event.event_label) for event in clip.events]


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs_are_told_and_read(name):
    format, events, values = FILES[name]
    assert guess_format(LABELS / name) == format
    (clip,) = load_clips(LABELS / name)
    assert found_in(clip) == events
    values = {"audio": Path(name).stem, **values}
    assert Path(clip.audio).stem == Path(values.pop("audio")).stem
    assert {key: getattr(clip, key) for key in values} == values


@pytest.mark.parametrize("name", WRITTEN)
def test_layouts_of_other_programs_are_told_and_read(name, tmp_path):
    path, (_, format, clips) = write(tmp_path, name), WRITTEN[name]
    if format is not None:
        assert guess_format(path) == format
    read = list(READERS[format or "ctm"].read(path))
    assert [(clip.audio, found_in(clip)) for clip in read] == [clip[:2] for clip in clips]
    for clip, (_, _, values) in zip(read, clips, strict=True):
        values = dict(values)
        if "scores" in values:
            assert [event.score for event in clip.events] == values.pop("scores")
        assert {key: getattr(clip, key) for key in values} == values


def test_segments_of_kaldi_have_the_labels_of_text(tmp_path):
    (tmp_path / "segments").write_text("u1 rec 0.5 1.25\nu2 rec 2 3\n")
    assert guess_format(tmp_path / "segments") == "kaldi_segments"
    with pytest.raises(FileNotFoundError, match="has times but no labels"):
        load_clips(tmp_path / "segments")
    (tmp_path / "text").write_text("u1 dog\nu2 car horn\n")
    (clip,) = load_clips(tmp_path / "segments")
    assert found_in(clip) == [*DOG, (2, 3, "car horn")]


def test_a_table_without_a_header_that_may_be_anything_is_not_taken_for_elan(tmp_path):
    for line in ("audio/a.wav\tstreet\t0.5\t1.25\tcar", "a\tb\t1\t2\t3\tdog"):
        (tmp_path / "a.txt").write_text(line + "\n")
        with pytest.raises(ValueError, match="fits no known format"):
            guess_format(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "data, predictions",
    [
        ("csv_space_after_comma.csv", "csv_predictions.jsonl"),
        ("label_nfd.tsv", "label_nfc_predictions.jsonl"),
        ("caps.tsv", None),
    ],
)
def test_labels_that_look_equal_are_equal_in_scores(data, predictions, tmp_path):
    if predictions is None:
        dog = {"onset": 0.5, "offset": 1.25, "event_label": " dog "}
        (tmp_path / "p.jsonl").write_text(
            json.dumps({"id": "a.wav", "task": "detection", "query": None, "events": [dog]})
        )
    path = LABELS / predictions if predictions else tmp_path / "p.jsonl"
    arguments = ["--durations", str(LABELS / "csv_durations.csv"), "--predictions", str(path)]
    assert main(["score", "--data", str(LABELS / data), *arguments, "--out", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["detection"]["micro"]["f1"] == report["detection"]["macro"]["f1"] == 1.0


def test_a_label_that_begins_before_0_is_cut_with_a_warning(caplog):
    load_clips(LABELS / "negative.txt")
    assert "1 labels begin before 0 s; they are cut at 0" in caplog.text


def test_every_row_of_spotsound_counts_though_files_repeat(tmp_path):
    rows = [{"audio_path": f"{i % 387}.wav", "caption": f"sound {i}", "annotations": [[0, 1]]} for i in range(400)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    clips = load_clips(tmp_path / "a.json")
    assert len(clips) == 400 and len({clip.audio for clip in clips}) == 387


def test_a_folder_of_files_is_read_file_by_file(tmp_path):
    for name in ("open_together.txt", "night.Table.1.selections.txt"):
        write(tmp_path, name)
    assert [clip.audio for clip in READERS["raven"].read(tmp_path)] == ["night", "a.wav", "b.wav"]


def test_eaf_of_pympi_is_read_and_its_dependent_tiers_are_left_out(tmp_path):
    pympi = pytest.importorskip("pympi.Elan")
    eaf = pympi.Eaf()
    eaf.add_tier("sounds")
    eaf.add_annotation("sounds", 500, 1250, "dog")
    eaf.add_linguistic_type("about", "Symbolic_Association", timealignable=False)
    eaf.add_tier("comments", "about", "sounds")
    eaf.add_ref_annotation("comments", "sounds", 600, "far off")
    eaf.to_file(str(tmp_path / "night.eaf"))
    assert guess_format(tmp_path / "night.eaf") == "eaf"
    (clip,) = load_clips(tmp_path / "night.eaf")
    assert Path(clip.audio).name == "night.wav" and found_in(clip) == DOG


LINES = {
    "desed.tsv": "filename\tonset\toffset\tevent_label\na.wav\t0.5\t1.25\tdog\n",
    "raven.txt": "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n1\t0.5\t1.25\tdog\n",
    "audition.csv": "Name\tStart\tDuration\tTime Format\ndog\t0:00.500\t0:00.750\tdecimal\n",
    "audacity.txt": "0.5\t1.25\tdog\n",
    "elan.txt": "sounds\t\t00:00:00.500\t00:00:01.250\t00:00:00.750\tdog\n",
    "srt.srt": "1\n00:00:00,500 --> 00:00:01,250\ndog\n",
    "rttm.rttm": "SPEAKER a 1 0.5 0.75 <NA> <NA> dog <NA> <NA>\n",
    "ctm.ctm": "a 1 0.5 0.75 dog\n",
}


@pytest.mark.parametrize("name", LINES)
def test_blank_lines_line_ends_and_utf_16_do_not_matter(name, tmp_path):
    text, path = LINES[name], tmp_path / name
    comment = ";; written by hand\n" if name.endswith(("rttm", "ctm")) else ""
    for data in (
        ("\n\n" + text).encode(), (comment + text).encode("utf-16"), text.replace("\n", "\r\n").encode("utf-8-sig"),
        text.replace("\n", "\r").encode(), (comment + text).encode(),
    ):  # fmt: skip
        path.write_bytes(data)
        (clip,) = load_clips(path)
        assert [(event.onset, event.offset, event.event_label) for event in clip.events] == [(0.5, 1.25, "dog")]


def test_selections_of_tables_that_were_appended_all_count(tmp_path):
    """Each is numbered from 1; the two views of one selection are one event still."""
    header = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tSpecies\n"
    rows = ("1\tWaveform 1\t0.5\t1\tdog", "1\tSpectrogram 1\t0.5\t1\tdog", "1\tSpectrogram 1\t2\t3\tcat")
    (tmp_path / "a.txt").write_text(header + "\n".join(rows))
    (clip,) = load_clips(tmp_path / "a.txt")
    assert [event.event_label for event in clip.events] == ["dog", "cat"]


def test_every_format_is_tested():
    elsewhere = {
        "audioset_strong",
        "ftar",
        "audiogrounding",
        "lighthouse",
        "audiotime",
        "jsonl",
        "parquet",
        "eaf",
        "trea",
    }
    told = {format for format, *_ in FILES.values()} | {values[1] for values in WRITTEN.values()} - {None}
    told |= {path.stem for path in (Path(__file__).parent / "fixtures" / "formats").iterdir()}
    assert told | elsewhere | {"kaldi_segments"} == set(READERS)
