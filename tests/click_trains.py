"""Where events lie after an encoder, a container and a decoder: the table of docs/time-in-recordings.md.

    python tests/click_trains.py [--check]

Clicks at known times are written as wav, encoded by ffmpeg, lame, sox, opusenc and oggenc, and decoded by TimePro, by
the ffmpeg program and by soundfile. Writes the table into the page; `--check` tells whether it is there already.
"""

import argparse
import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

from processing.audio_io import load_audio

PAGE = Path(__file__).parents[1] / "docs" / "time-in-recordings.md"
BEGIN, END = "<!-- table: python tests/click_trains.py -->", "<!-- end of the table -->"
TIMES, SECONDS, RATE = (0.5, 1.0, 1.73, 2.41, 3.07, 3.9, 4.6, 5.5), 6.0, 16000
# Encoders put no more than this before the sound.
MAX_SHIFT = 0.2
FFMPEG = "ffmpeg -v error -y -i {wav}"
FILM = "ffmpeg -v error -y -i {wav} -f lavfi -i color=size=64x64:duration=6:rate=5 -map 0:a -map 1:v"
# Name, rate of the wav, whether the file says what its reader is to skip, and the command, to which the name is added.
ENCODINGS = """
wav.wav            44100 yes FFMPEG
flac.flac          44100 yes FFMPEG
alac.m4a           44100 yes FFMPEG -c:a alac
wavpack.wv         44100 yes FFMPEG -c:a wavpack
tta.tta            44100 yes FFMPEG
aiff.aiff          44100 yes FFMPEG
w64.w64            44100 yes FFMPEG
rf64.wav           44100 yes FFMPEG -rf64 always
pcm.mkv            44100 yes FFMPEG -c:a pcm_s16le
flac.mkv           44100 yes FFMPEG -c:a flac
flac.ogg           44100 yes FFMPEG -c:a flac
ima_adpcm.wav      44100 yes FFMPEG -c:a adpcm_ima_wav
ms_adpcm.wav       44100 yes FFMPEG -c:a adpcm_ms
gsm.wav             8000 no  sox {wav} -e gsm-full-rate
g722.wav           16000 yes FFMPEG -c:a g722
mp3_cbr.mp3        44100 yes FFMPEG -b:a 128k
mp3_vbr.mp3        44100 yes lame --quiet -V4 {wav}
mp3_abr.mp3        44100 yes lame --quiet --abr 100 {wav}
mp3.mp4            44100 yes FFMPEG -c:a libmp3lame
mp3_no_tag.mp3     44100 no  lame --quiet -t {wav}
mp3_sox.mp3        44100 no  sox {wav}
mp3_22k.mp3        44100 no  lame --quiet --resample 22.05 {wav}
mp3.mkv            44100 no  FFMPEG -c:a libmp3lame
mp3.avi            44100 no  FFMPEG -c:a libmp3lame
mp3.wav            44100 no  FFMPEG -c:a libmp3lame
mp2.mp2            44100 no  FFMPEG
aac.m4a            44100 yes FFMPEG
aac.mov            44100 yes FFMPEG -c:a aac
aac.3gp            44100 yes FFMPEG -c:a aac
aac_film.mp4       44100 yes FILM -c:a aac
aac_fragments.mp4  44100 no  FFMPEG -movflags frag_keyframe+empty_moov
aac.aac            44100 no  FFMPEG
aac.mkv            44100 no  FFMPEG -c:a aac
aac.flv            44100 no  FFMPEG -c:a aac
aac_film.ts        44100 no  FILM -c:a aac
opus.ogg           44100 yes FFMPEG -c:a libopus
opus.opus          44100 yes opusenc --quiet {wav}
opus.webm          44100 yes FFMPEG -c:a libopus
opus_film.webm     44100 yes FILM -c:a libopus -c:v libvpx
opus.mp4           44100 yes FFMPEG -c:a libopus
opus.ts            44100 no  FFMPEG -c:a libopus
vorbis.ogg         44100 yes oggenc -Q {wav} -o
vorbis.webm        44100 yes FFMPEG -c:a libvorbis
speex.spx          16000 no  FFMPEG -c:a libspeex
wma1.wma           44100 yes FFMPEG -c:a wmav1
wma2.wma           44100 yes FFMPEG -c:a wmav2
wma2_film.wmv      44100 yes FILM -c:a wmav2
ac3.mp4            44100 yes FFMPEG -c:a ac3
ac3.ac3            44100 no  FFMPEG
eac3.eac3          44100 no  FFMPEG
ac3.mkv            44100 no  FFMPEG -c:a ac3
dts.mkv            44100 no  FFMPEG -c:a dca -strict -2
mp2_film.mpg       44100 no  FILM -c:a mp2 -r 25
"""
ENCODINGS = {
    name: (int(rate), says == "yes", command.replace("FFMPEG", FFMPEG).replace("FILM", FILM))
    for name, rate, says, command in (line.split(maxsplit=3) for line in ENCODINGS.strip().splitlines())
}


@functools.cache
def click_train(rate: int) -> np.ndarray:
    """Return bursts of 1.2 kHz, 8 ms long, around the times."""
    samples, place = np.zeros(round(SECONDS * rate)), np.arange(round(0.008 * rate))
    burst = 0.7 * np.hanning(len(place)) * np.sin(2 * np.pi * 1200 * place / rate)
    for time in TIMES:
        samples[round(time * rate) :][: len(place)] = burst
    return samples


def encode(name: str, folder: Path) -> Path:
    """Write the click train in an encoding and return its path.

    Raises:
        subprocess.CalledProcessError: the encoder is another version that cannot.
    """
    rate, _, command = ENCODINGS[name]
    wav, path = folder / f"clicks_{rate}.wav", folder / name
    if not wav.exists():
        soundfile.write(wav, click_train(rate), rate)
    subprocess.run([*command.format(wav=wav).split(), path], check=True, capture_output=True)
    return path


def shift(samples: np.ndarray, rate: int) -> float:
    """Return by how many seconds clicks are late, from where their power correlates most with that of the original."""
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    power, own = np.square(samples), np.square(soxr.resample(click_train(48000), 48000, RATE))
    size = 2 * max(len(power), len(own))
    likeness = np.fft.irfft(np.fft.rfft(power, size) * np.fft.rfft(own, size).conj())
    span = round(MAX_SHIFT * RATE)
    near = np.concatenate([likeness[-span:], likeness[: span + 1]])
    return (int(near.argmax()) - span) / RATE


def decode_by_ffmpeg(path: Path) -> tuple[np.ndarray, int]:
    """Return what the ffmpeg program decodes, one channel at 48 kHz."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:a:0", "-ac", "1", "-ar", "48000", "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "<f4"), 48000


def decode_by_soundfile(path: Path) -> tuple[np.ndarray, int] | None:
    try:
        samples, rate = soundfile.read(path, always_2d=True)
    except soundfile.SoundFileError:
        return None
    return samples.mean(axis=1), rate


def measure(name: str, folder: Path) -> dict:
    """Return shift (s) and length (s) of an encoding by decoder; `None` where it cannot be decoded."""
    path = encode(name, folder)
    heard = {
        "TimePro": (load_audio(path, RATE), RATE),
        "ffmpeg": decode_by_ffmpeg(path),
        "soundfile": decode_by_soundfile(path),
    }
    return {key: value and (shift(*value), len(value[0]) / value[1]) for key, value in heard.items()}


def table(rows: dict[str, dict]) -> str:
    """Return measurements as Markdown: shifts in ms, and lengths in s beyond the original's."""
    ffmpeg = subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout.split()[2]
    lame = subprocess.run(["lame", "--version"], check=True, capture_output=True, text=True).stdout.split()[3]
    versions = {name: importlib.metadata.version(name) for name in ("av", "soundfile")}
    lines = [
        f"Encoded by ffmpeg {ffmpeg.split('-')[0]}, LAME {lame}, sox, opusenc and oggenc of Debian 12; decoded by "
        f"TimePro with PyAV {versions['av']} and soundfile {versions['soundfile']} (libsndfile "
        f"{soundfile.__libsndfile_version__}), by that ffmpeg, and by that soundfile.", "",
        "| file | says what to skip | TimePro: shift, length | ffmpeg: shift, length | soundfile: shift, length |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in rows.items():
        cells = ["-" if row[key] is None else f"{1000 * row[key][0]:+.1f} ms, {row[key][1] - SECONDS:+.3f} s"
                 for key in ("TimePro", "ffmpeg", "soundfile")]  # fmt: skip
        lines.append(f"| `{name}` | {'yes' if ENCODINGS[name][1] else 'no'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page has another table")
    is_check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: measure(name, Path(folder)) for name in ENCODINGS}
    page = PAGE.read_text(encoding="utf-8")
    new = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table(rows)}\n{END}", page, flags=re.DOTALL)
    if not is_check:
        PAGE.write_text(new, encoding="utf-8")
    return int(is_check and new != page)


HAS_PROGRAMS = all(map(shutil.which, ("ffmpeg", "lame", "sox", "opusenc", "oggenc")))

if __name__ == "__main__":
    sys.exit(main())
