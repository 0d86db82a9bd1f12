"""Where the sound of a track lies in its container, which may begin late and have gaps."""

from collections.abc import Iterator

# Seconds by which the times of packets, often rounded to milliseconds, may stray before there is a gap.
JITTER = 0.05
# Seconds by which the length that a container states may differ from its sound: a frame or two of padding.
SLACK = 0.3
# Containers that say when a packet is heard. Times of the second group restart, and jump, where streams were joined.
TIMED = ("mov", "matroska", "asf", "avi", "nut", "mxf", "wtv", "flac")
RESTARTING, MAX_JUMP = ("mpegts", "mpeg", "flv", "rm", "ogg"), 10.0
# Times that go back by more than this have restarted.
MAX_OVERLAP = 1.0
# A gap where nobody says how long the recording is.
MAX_GAP = 3600.0


class Clock:
    """Where the sound of a track lies in its container: silence before and within it.

    Time zero is the container's, or where its first stream begins if it has none. Frames follow one another; the times
    of packets, which are often rounded, count where they say that something is missing.
    """

    def __init__(self, container, stream):
        name = container.format.name.split(",")[0]
        self.is_timed = name in TIMED + RESTARTING
        start = max(0, container.start_time or 0) / 1e6
        # Of streams that were joined while they ran, time zero is where they begin.
        self.zero = start if name in RESTARTING[:-1] or start > MAX_JUMP else 0.0
        self.length = None if name in RESTARTING else (container.duration or MAX_GAP * 1e6) / 1e6
        codec = stream.codec_context.name
        # The first packet of these has no sound of its own; of others what is skipped is an encoder's delay.
        self.begins_with_packet = codec in ("vorbis", "wmav1", "wmav2")
        # Decoders of WMA drop two frames, and FFmpeg's encoder of it has put only one before the sound.
        written_by = {key.lower(): value for key, value in container.metadata.items()}.get("encoder", "")
        self.drops_sound = codec in ("wmav1", "wmav2") and written_by.startswith("Lavf")
        self.position, self.ahead, self.gaps = 0.0, None, []

    def silence_before(self, frame, first_pts) -> int:
        """Return how many samples of silence lie between the frame before and this one, and go on behind it."""
        gap, rate = 0.0, frame.sample_rate
        if self.is_timed and frame.pts is not None:
            time = float(frame.pts * frame.time_base) - self.zero
            if self.ahead is None:
                first = first_pts if self.begins_with_packet and first_pts is not None else frame.pts
                gap = max(0.0, float(first * frame.time_base) - self.zero)
                gap += (time - gap) / 2 if self.drops_sound else 0.0
                self.ahead = time - gap
            else:
                gap = time - self.ahead - self.position
                if gap < -MAX_OVERLAP:
                    self.ahead += gap
                gap = gap if gap > JITTER else 0.0
            if gap > MAX_JUMP if self.length is None else self.position + gap > self.length + SLACK:
                self.ahead, gap = self.ahead + gap, 0.0
        length = round(gap * rate)
        if gap > JITTER:
            self.gaps.append((self.position, gap))
        self.position += (length + frame.samples) / rate
        return length

    def notes(self) -> Iterator[str]:
        """Yield what should be said about silence that was put in."""
        if self.gaps and not self.gaps[0][0]:
            yield f"has sound from {self.gaps.pop(0)[1]:.2f} s on only; before it is silence"
        if self.gaps:
            total = sum(length for _, length in self.gaps)
            yield f"has gaps ({len(self.gaps)}, {total:.2f} s in all), which are filled with silence"
