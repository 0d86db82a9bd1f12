#!/bin/bash
# SubRip times whose fraction has one or two digits (1,5): webvtt-py 0.6.0, srt 3.5.3, pysubs2 1.8.1, ffmpeg 5.1 (Debian 12).
# Expected: one meaning everywhere, 1.5 s.
# Seen: pysubs2 reads a fraction, 1.5 s; webvtt-py, srt and ffmpeg read whole milliseconds, 1.005 s. Nobody says a word,
# and cues move by up to 0.9 s from one program to the next.
# For us: read as a fraction, as who wrote it means; written with three digits always.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q webvtt-py==0.6.0 srt==3.5.3 pysubs2==1.8.1
printf '1\n00:00:01,5 --> 00:00:03,25\ndog\n' > a.srt
cat > run.py <<'PY'
import pysubs2
import srt
import webvtt

(line,) = pysubs2.load("a.srt")
print("pysubs2", line.start / 1000, line.end / 1000)
(cue,) = srt.parse(open("a.srt").read())
print("srt", cue.start.total_seconds(), cue.end.total_seconds())
(caption,) = webvtt.from_srt("a.srt")
print("webvtt-py", caption.start, caption.end)
PY
{ venv/bin/python run.py; ffmpeg -v error -i a.srt -f webvtt - | sed -n 's/ --> / /p' | sed 's/^/ffmpeg /'; } | tee seen
diff seen - <<'EXPECTED'
pysubs2 1.5 3.25
srt 1.005 3.025
webvtt-py 00:00:01.005 00:00:03.025
ffmpeg 00:01.005 00:03.025
EXPECTED
