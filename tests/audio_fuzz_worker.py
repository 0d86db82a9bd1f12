"""Decode damaged files, in a process of its own: `audio_fuzz_worker.py SUFFIX COUNT SEED`.

`programs` as suffix stands for all encodings of `click_trains`. Prints the number of files decoded and refused; what is
neither ends the process, and so does a file that was cut by a tenth or more without a word.
"""

import faulthandler
import io
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from click_trains import ENCODINGS, encode

from processing.audio_io import audio_duration, stream_audio

SUBTYPES = {
    "wav": [("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAVEX", "FLOAT"), ("WAV", "IMA_ADPCM")],
    "flac": [("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    "ogg": [("OGG", "VORBIS"), ("OGG", "OPUS")],
    "mp3": [("MP3", "MPEG_LAYER_III")],
}
GIGABYTE = 1 << 30


def originals(suffix):
    samples = 0.3 * np.random.default_rng(0).standard_normal((4000, 2)).clip(-1, 1)
    if suffix in SUBTYPES:
        for format, subtype in SUBTYPES[suffix]:
            file = io.BytesIO()
            soundfile.write(file, samples, 48000, format=format, subtype=subtype)
            yield file.getvalue()
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ENCODINGS:
            yield encode(name, Path(folder)).read_bytes()


def mutate(data, rng):
    """Return bytes with a few of these: wrong bytes (mostly of the header), a cut, a piece left out or repeated."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        where = int(rng.integers(len(data))) if rng.random() < 0.4 else int(rng.integers(min(200, len(data))))
        length = int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                data[where : where + length] = rng.bytes(length)
            case 1:
                data[where : where + 4] = rng.choice(
                    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
                )
            case 2:
                del data[where : where + 10 * length]
            case 3:
                data[where:where] = data[where // 2 : where // 2 + 10 * length]
            case 4:
                data = data[: max(1, int(rng.integers(len(data))))] if rng.random() < 0.3 else data
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def main(suffix, count, seed):
    faulthandler.enable()
    # More than any of the files needs by far.
    resource.setrlimit(resource.RLIMIT_AS, (6 * GIGABYTE, 6 * GIGABYTE))
    rng = np.random.default_rng(seed)
    files = list(originals(suffix))
    decoded = refused = 0
    for number in range(count):
        data, is_cut, said = files[number % len(files)], suffix == "programs" and number % 5 == 0, []
        data = data[: int(rng.uniform(0.01, 0.9) * len(data))] if is_cut else mutate(data, rng)
        print(f"file {number}", file=sys.stderr)
        try:
            list(stream_audio(data, report=said.append)[1])
            audio_duration(data)
            if is_cut and not said:
                # Between two frames of a stream nobody can tell; one byte earlier it must be said.
                list(stream_audio(data[:-1], report=said.append)[1])
                assert said
            decoded += 1
        except ValueError:
            refused += 1
    print(decoded, refused)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
