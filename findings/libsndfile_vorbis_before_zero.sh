#!/bin/bash
# soundfile 0.14.0 (libsndfile 1.2.2), Ogg Vorbis whose first pages lie before time 0, as `ffmpeg -ss 0.5 -c copy` writes.
# Expected: 2.5 s of 3 s, without the first half second (as the positions of the pages say); or all 3 s.
# Seen: 2.5 s from the first packet on: the last half second is lost without a word, and events are 0.5 s late by the
# clock of the container. FFmpeg 8.1 (av 18.1.0) returns all 3 s.
# For us: such files are read by FFmpeg, and a warning names both lengths.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q numpy==2.4.6 soundfile==0.14.0 av==18.1.0
cat > run.py <<'PY'
import av
import numpy as np
import soundfile

rate = 44100
sound = np.zeros(3 * rate)
for time in (1.0, 2.7):
    sound[round(time * rate) :][: rate // 10] = 0.5 * np.sin(2 * np.pi * 700 * np.arange(rate // 10) / rate)
soundfile.write("a.ogg", sound, rate, subtype="VORBIS")
with av.open("a.ogg") as source, av.open("b.ogg", "w") as target:
    stream = target.add_stream_from_template(source.streams.audio[0])
    for packet in source.demux(audio=0):
        if packet.dts is not None:
            packet.pts -= rate // 2
            packet.dts -= rate // 2
            packet.stream = stream
            target.mux(packet)


def bursts(samples):
    loud = np.flatnonzero(np.abs(samples) > 0.2) / rate
    return [f"{time:.1f}" for time, gap in zip(loud, np.diff(loud, prepend=-1)) if gap > 0.1]


by_libsndfile = soundfile.read("b.ogg")[0]
with av.open("b.ogg") as source:
    by_ffmpeg = np.concatenate([frame.to_ndarray()[0] for frame in source.decode(audio=0)])
for name, samples in (("soundfile", by_libsndfile), ("ffmpeg", by_ffmpeg)):
    print(f"{name}: {len(samples) / rate:.1f} s, bursts at {bursts(samples)}")
PY
seen=$(venv/bin/python run.py)
echo "$seen"
[ "$seen" = "soundfile: 2.5 s, bursts at ['1.0']
ffmpeg: 3.0 s, bursts at ['1.0', '2.7']" ]
