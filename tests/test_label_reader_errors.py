"""Label files that are not quite right: an error names the place, value and fix, and nothing else is raised."""

# Lines of files are kept whole.
# ruff: noqa: E501

import gzip
import json
import random
import struct

import pytest
from test_label_readers import AEG, FILES, FMT, LABELS, LAT, RAVEN, STUDIO, WRITTEN, riff, write

from recipes.data.formats import READERS, guess_format


@pytest.mark.parametrize(
    "name, format, content, message",
    [
        ("a.txt", "raven", f"{RAVEN}\n1\tWaveform 1\t1\t0\t1\t0\t0\n", "line 2: the table has no column of labels"),
        ("a.txt", "raven", f"{RAVEN}\tmine\tyours\n1\tWaveform 1\t1\t0\t1\t0\t0\ta\tb\n", "several columns .* mine, yours"),
        ("a.txt", "raven", f"{RAVEN}\tBegin File\tSpecies\n1\tw\t1\t0\t1\t0\t0\ta\tx\n2\tw\t1\t0\t1\t0\t0\tb\tx\n",
         "line 3: a second recording 'b', but no column 'File Offset"),
        ("a.csv", "audition", "Name,Start,Duration,Time Format\nx,10,20,samples\n", "line 2: Time Format is 'samples'"),
        ("a.csv", "reaper", "#,Name,Start,End,Length\nR1,x,144.2.00,144.3.00,0.1.00\n", "line 2: Start is '144.2.00'"),
        ("a.csv", "reaper", "#,Name,Start,End,Length\nR1,x,50000,77600,27600\n", "Whole numbers may be samples"),
        ("a.wav", "wav_markers", riff(FMT, (b"data", b"\0\0")), "has no markers"),
        ("a.wav", "wav_markers", riff(FMT, (b"cue ", struct.pack("<I", 9))), "too short"),
        ("a.wav", "wav_markers", b"RIFX", "is not a wav file"),
        ("a.svl", "svl", "<sv><data><model sampleRate='8000' type='dense'/></data></sv>", "a layer of the type 'dense'"),
        ("a.svl", "svl", "<sv>", "is not XML"),
        ("a.json", "label_studio", json.dumps([{**STUDIO, "annotations": [{"result": []}] * 2}]), "has 2 annotations"),
        ("a.json", "label_studio", json.dumps([{"id": 1, "data": {}, "annotations": []}]), "names 0 recordings"),
        ("a.json", "lhotse", '{"id": "s", "recording_id": "r", "start": 0, "duration": 1}', "neither custom.audio_event"),
        ("a.gz", "lhotse", gzip.compress(b"{", mtime=0)[:-9], "is not JSON Lines in gzip"),
        ("a", "ctm", "rec 1 0.5 0.75\n", "line 1 has 4 fields"),
        ("a.json", "aegbench", json.dumps([{**AEG, "categories": ["cat"]}]), "'dog' is not in categories"),
        ("a.jsonl", "lat_bench", json.dumps({"audios": ["a"], "messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": ""}]}),
         "is not worded as the English grounding task"),
        ("a.jsonl", "lat_bench", json.dumps({"audios": ["a"], "messages": [{"role": "user", "content": LAT % "it"}, {"role": "assistant", "content": "12 s"}]}),
         "is not of .MM:SS-MM:SS."),
        ("a.csv", "trea", "id,audio_path,optionA,correct\n1,a.wav,x,A\n", "whose sounds have no times"),
        ("a.jams", "jams", "{}", "is not JAMS"),
        ("a.txt", "elan", "Tier\tBegin Time - ss.msec\tEnd Time - ss.msec\tAnnotation\nx\t2\t1\ta\n", "line 2: the end at 1.0 s is before"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(name, format, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        list(READERS[format].read(path))
    assert str(caught.value).startswith(str(path))


def mutated(value, rng):
    """Return a JSON value with one of its parts replaced."""
    if rng.random() < 0.2 or not isinstance(value, list | dict) or not value:
        return rng.choice([None, True, -1, 1e400, "x", "", [], {}, [[1, 2]], {"start": 1, "end": 0}])
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[key] = mutated(value[key], rng)
    return changed


@pytest.mark.parametrize("name", [*WRITTEN, *FILES])
def test_damaged_files_give_clips_or_errors(name, tmp_path):
    path = write(tmp_path, name) if name in WRITTEN else tmp_path / name
    content = path.read_bytes() if name in WRITTEN else (LABELS / name).read_bytes()
    format = (WRITTEN[name][1] or "ctm") if name in WRITTEN else FILES[name][0]
    rng = random.Random(0)
    for index in range(2 if format == "jams" else 12):
        start = rng.randrange(len(content) + 1)
        damaged = content[:start] + rng.randbytes(rng.randrange(6)) + content[start + rng.randrange(12) :]
        if index % 2 and content[:1] in (b"[", b"{"):
            damaged = json.dumps(mutated(json.loads(content), rng)).encode()
        path.write_bytes(damaged)
        for read in (guess_format, lambda path: list(READERS[format].read(path))):
            try:
                read(path)
            except (ValueError, OSError):
                pass
