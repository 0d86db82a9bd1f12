"""`timepro listen`: detect events from a microphone or piped audio, printing a line of JSON as each event ends."""

import contextlib
import json
import os
import queue
import select
import signal
import sys
from argparse import ArgumentError
from collections.abc import Iterator

from recipes.arguments import add_model, channel, positive_int, probability, seconds

# NumPy dtypes of ffmpeg's raw formats.
PCM_FORMATS = {"u8": "u1", "s16le": "<i2", "s16be": ">i2", "s32le": "<i4", "s32be": ">i4", "f32le": "<f4",
               "f32be": ">f4", "f64le": "<f8"}  # fmt: skip
# First bytes of file formats that might be piped by mistake; as samples they would be noise.
CONTAINERS = {b"RIFF": "wav", b"RF64": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"FORM": "aiff",
              b"\x1aE\xdf\xa3": "mkv or webm"}  # fmt: skip
# Seconds of audio to read at once, and to buffer before giving up.
CHUNK_S, MOST_BEHIND_S = 0.1, 60.0


def add_listen_arguments(command):
    """Add the arguments of the command."""
    command.epilog = (
        "Examples: timepro listen; arecord -t raw -f S16_LE -r 16000 | timepro listen -; ffmpeg -v error -i "
        "rtsp://camera/stream -f s16le -ar 16000 -ac 1 - | timepro listen -. Ctrl-C ends it, and prints the events "
        "that are still open. Exit code: 0, 1 if there is no audio, 2 for wrong arguments. See docs/live.md."
    )
    add = command.add_argument
    source = "microphone, or - for raw PCM on standard input (default: standard input if piped, else the microphone)"
    add("source", nargs="?", choices=("microphone", "-"), metavar="SOURCE", help=source)
    add("--query", action="append", metavar="TEXT", help="what to look for; may be repeated (default: all events)")
    add_model(command)
    add("--hop", type=seconds, default=0.5, metavar="S", help="seconds between decisions (default 0.5)")
    add("--look-every", type=seconds, default=10.0, metavar="S",
        help="average seconds between early answers; fewer reduce latency but cost more (default 10)")  # fmt: skip
    add("--exact", action="store_true", help="print events only when no later audio can change them: up to 15 s late")
    add("--min-score", type=probability, metavar="P", help="omit events with a lower score, 0 to 1")
    add("--channel", type=channel, metavar="N", help="channel to use, from 0 (default: the mean of all)")
    sound = command.add_argument_group("standard input").add_argument
    sound("--format", choices=tuple(PCM_FORMATS), help=f"{', '.join(PCM_FORMATS)} (default s16le)")
    sound("--sampling-rate", type=positive_int, metavar="HZ", help="samples per second (default 16000)")
    sound("--channels", type=positive_int, metavar="N", help="interleaved channels (default 1)")
    command.add_argument_group("microphone").add_argument(
        "--device", metavar="NAME", help="number or part of the name of a sounddevice input (default: the system's)"
    )


def listen(args) -> int:
    """Run the command and return its exit code: 1 if there was no audio.

    Raises:
        argparse.ArgumentError: inconsistent arguments.
        ValueError, OSError: no microphone, no raw PCM, no such checkpoint, or processing slower than real time.
    """
    source = args.source or ("microphone" if sys.stdin is None or sys.stdin.isatty() else "-")
    others = ("device",) if source == "-" else ("format", "sampling_rate", "channels")
    for name in others:
        if getattr(args, name) is not None:
            owner = "the microphone" if source == "-" else "standard input"
            raise ArgumentError(None, f"--{name.replace('_', '-')} applies only to {owner}.")
    if args.channel == "loudest":
        raise ArgumentError(None, "--channel is 'loudest', which a stream cannot know; give the number of the channel.")
    stdout, is_stopped = sys.stdout, []
    opened = _open_pipe(args) if source == "-" else _open_microphone(args.device)
    with contextlib.redirect_stdout(sys.stderr), opened as (rate, chunks):
        from recipes.conversion.checkpoint_folder import load_pipeline

        stream = load_pipeline(args.model).live(
            rate, args.hop, args.query, args.exact, args.look_every, min_score=args.min_score, channel=args.channel
        )
        try:
            with _interruptible(is_stopped):
                for chunk in chunks(lambda: bool(is_stopped)):
                    _print(stream.push(chunk), stream, stdout)
                _print(stream.finish(), stream, stdout, is_over=True)
        except BrokenPipeError:
            # The reader is gone; without this Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
            return 1
    if not stream.position:
        print("timepro: no sound came in.", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _interruptible(is_stopped):
    """Let the first Ctrl-C or SIGTERM end the audio rather than the program."""

    def stop(number, frame):
        if is_stopped:
            raise KeyboardInterrupt
        is_stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(events, stream, stdout, is_over=False):
    """Print events, and on a terminal a status line."""
    is_shown = sys.stderr.isatty()
    if is_shown and (events or is_over):
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    for event in events:
        print(json.dumps(event, ensure_ascii=False, allow_nan=False), file=stdout, flush=True)
    if is_shown and not is_over:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        going_on = ", ".join(event["event_label"] for event in stream.open_events) or "-"
        line = f"{stream.position / stream.rate:8.1f} s  now: {going_on}"
        sys.stderr.write(f"\r{line[: width - 1]}\x1b[K")
        sys.stderr.flush()


@contextlib.contextmanager
def _open_pipe(args):
    """Yield the sampling rate of raw PCM on standard input, and a function that yields its chunks until stopped."""
    import numpy as np

    dtype, num_channels = np.dtype(PCM_FORMATS[args.format or "s16le"]), args.channels or 1
    rate, frame, file = args.sampling_rate or 16000, dtype.itemsize * num_channels, sys.stdin.buffer.fileno()

    def chunks(is_stopped) -> Iterator:
        rest, is_first = b"", True
        while not is_stopped():
            if not select.select([file], [], [], 0.2)[0]:
                continue
            data = os.read(file, max(frame, int(CHUNK_S * rate) * frame))
            if not data:
                break
            rest += data
            # Enough bytes to recognise a file, and to tell channels from samples.
            if is_first and len(rest) < max(4, frame * num_channels):
                continue
            if is_first and (kind := next((k for magic, k in CONTAINERS.items() if rest.startswith(magic)), None)):
                raise ValueError(
                    f"standard input begins like a file of {kind}, not like raw PCM; put `ffmpeg -v error -i - -f "
                    "s16le -ar 16000 -ac 1 - |` before timepro listen, or use timepro detect for files."
                )
            is_first = False
            whole = len(rest) // frame * frame
            samples, rest = np.frombuffer(rest[:whole], dtype), rest[whole:]
            yield samples.astype(dtype.newbyteorder("=")).reshape(-1, num_channels)
        if rest and not is_stopped():
            print(f"timepro: the last {len(rest)} bytes are no whole sample of {frame} bytes.", file=sys.stderr)

    if sys.stdin.isatty():
        raise ValueError(
            "source is '-', standard input, but nothing is piped into it; pipe raw PCM into it, for instance from "
            "`ffmpeg -i rtsp://camera/stream -f s16le -ar 16000 -ac 1 -`."
        )
    yield rate, chunks


@contextlib.contextmanager
def _open_microphone(device):
    """Yield the sampling rate of a microphone, and a function that yields its chunks until stopped."""
    way_out = "; or pipe raw PCM into `timepro listen -`"
    import numpy as np

    try:
        import sounddevice
    except ImportError:
        raise ValueError(
            f"sounddevice is missing, which reads microphones; run `pip install sounddevice`{way_out}."
        ) from None
    except OSError as error:
        raise ValueError(
            f"sounddevice finds no PortAudio ({error}); install it, on Debian libportaudio2{way_out}."
        ) from None
    waiting = queue.Queue()

    def callback(data, num_samples, times, status):
        if status:
            print(f"timepro: the microphone says: {status}", file=sys.stderr)
        waiting.put(np.frombuffer(data, np.float32).copy())

    def chunks(is_stopped) -> Iterator:
        with microphone:
            while not is_stopped():
                with contextlib.suppress(queue.Empty):
                    yield waiting.get(timeout=0.2)
                if waiting.qsize() * CHUNK_S > MOST_BEHIND_S:
                    raise ValueError(
                        f"hearing is {MOST_BEHIND_S:g} s behind the microphone; give a longer --hop, or --exact."
                    )

    try:
        found = sounddevice.query_devices(int(device) if device and device.isdecimal() else device, "input")
        rate = int(found["default_samplerate"])
        microphone = sounddevice.RawInputStream(
            rate, int(CHUNK_S * rate), found["index"], channels=1, dtype="float32", callback=callback
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ValueError(f"no microphone found ({error}); choose another --device{way_out}.") from None
    yield rate, chunks
