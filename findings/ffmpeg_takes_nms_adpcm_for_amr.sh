#!/bin/bash
# soundfile 0.14.0 (libsndfile 1.2.2) writes NMS ADPCM into wav under its registered format tag, 0x0038; PyAV 18.1.0
# (FFmpeg 8.1) reads the file.
# Expected: the tone, or "no decoder for this codec".
# Seen: FFmpeg takes the tag for AMR-NB, decodes 4.18 s of noise from 2 s of a tone, of a peak far above full scale.
# For us: wav of this tag is read by libsndfile.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q numpy==2.4.6 soundfile==0.14.0 av==18.1.0
cat > run.py <<'PY'
import av
import numpy as np
import soundfile

rate = 8000
tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
soundfile.write("a.wav", tone, rate, subtype="NMS_ADPCM_16")
same = soundfile.read("a.wav")[0][: len(tone)]
print(f"soundfile: {len(same) / rate:.2f} s, correlation with the tone {np.corrcoef(same, tone)[0, 1]:.1f}")
with av.open("a.wav") as container:
    stream, parts = container.streams.audio[0], []
    for packet in container.demux(stream):
        try:
            parts += [frame.to_ndarray()[0] for frame in packet.decode()]
        except av.FFmpegError:
            pass
    samples = np.concatenate(parts)
    same = abs(np.corrcoef(samples[: len(tone)], tone)[0, 1]) > 0.5
    print(f"ffmpeg: {stream.codec_context.name}, longer than 3 s: {len(samples) / rate > 3}, the tone: {bool(same)}")
PY
seen=$(venv/bin/python run.py 2>/dev/null)
echo "$seen"
[ "$seen" = "soundfile: 2.00 s, correlation with the tone 1.0
ffmpeg: amrnb, longer than 3 s: True, the tone: False" ]
