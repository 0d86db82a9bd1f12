"""Audio that libsndfile cannot read, through the program ffmpeg: m4a and mp4, aac, webm and mkv, wma."""

import os
import re
import shutil
import subprocess
import tempfile

# What a file begins with, by a pattern on its first bytes: what to call it, and ffmpeg's name for the container. The
# container is given to ffmpeg, which would else follow playlists and the like to other files.
CONTAINERS = (
    (rb"(?s)....ftyp", "MPEG-4 audio (m4a, mp4)", "mov"),
    (rb"\x1aE\xdf\xa3", "Matroska audio (webm, mkv)", "matroska"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "raw AAC", "aac"),
    (rb"0&\xb2u\x8ef\xcf\x11", "Windows Media audio (wma)", "asf"),
)


def find_container(head: bytes) -> tuple[str, str] | None:
    """Return what a file is called and ffmpeg's name for it, from its first 12 bytes; `None` if it is none of these."""
    for pattern, kind, demuxer in CONTAINERS:
        if re.match(pattern, head):
            return kind, demuxer
    return None


def decode_by_ffmpeg(
    source: str | os.PathLike | bytes, name: str, kind: str, demuxer: str, max_seconds: float | None = None
):
    """Decode a file into a temporary wav of 32-bit floats, which goes when it is closed.

    Args:
        source: a path, or the bytes of a file.
        name, kind: what errors call it.
        demuxer: ffmpeg's name for the container.
        max_seconds: decode no more; for callers that take no longer recordings.

    Returns:
        an open binary file.

    Raises:
        ValueError: ffmpeg is missing, finds no audio, or takes longer than a minute and 10 s for every MB.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise ValueError(
            f"{name} is {kind}, which needs the program ffmpeg; install it (apt-get install ffmpeg, brew install "
            "ffmpeg, conda install ffmpeg), or convert the file to wav, flac, ogg or mp3."
        )
    with tempfile.NamedTemporaryFile() as copy, tempfile.TemporaryDirectory() as folder:
        if isinstance(source, (bytes, bytearray)):
            # ffmpeg must move about in the file, which a pipe does not let it.
            copy.write(source)
            copy.flush()
            source, size = copy.name, len(source)
        else:
            size = os.path.getsize(source)
        target = os.path.join(folder, "audio.wav")
        command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-f", demuxer]
        command += ["-i", "file:" + os.path.abspath(source), "-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto"]
        # Times are those of the file: what starts late, or lacks packets, is filled with silence.
        command += ["-af", "aresample=async=1:first_pts=0"]
        command += ["-t", f"{max_seconds:f}"] if max_seconds is not None else []
        try:
            done = subprocess.run(
                [*command, "-f", "wav", "file:" + target], capture_output=True, timeout=60 + size / 1e5, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"{name} is not decoded by ffmpeg within {error.timeout:.0f} s; give a whole file."
            ) from None
        # ffmpeg goes on after an error, and so would leave a gap or an early end.
        message = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode or message:
            last = message.splitlines()[-1] if message else f"exit status {done.returncode}"
            raise ValueError(f"{name} breaks off or is damaged, or has no audio (ffmpeg: {last}); give a whole file.")
        # An open file outlives its folder.
        return open(target, "rb")
