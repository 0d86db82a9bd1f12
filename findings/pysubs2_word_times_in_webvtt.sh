#!/bin/bash
# pysubs2 1.8.1, WebVTT with times of single words (karaoke), as YouTube's automatic captions have them.
# Expected: one line per cue, with its words (W3C WebVTT: a timestamp tag within a cue is no cue); webvtt-py gives that.
# Seen: where the tags stand one after the other the cue's text is lost, and a cue without text takes the times of two
# words; where a single tag stands, it stays in the text.
# For us: captions of YouTube are read by our own reader.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q webvtt-py==0.6.0 pysubs2==1.8.1
cat > a.vtt <<'VTT'
WEBVTT

00:00:00.030 --> 00:00:02.389
dog<00:00:00.719><c> barks</c><00:00:00.930><c> loudly</c>

00:00:02.400 --> 00:00:04.000
siren<00:00:03.000><c> wails</c>
VTT
cat > run.py <<'PY'
import pysubs2
import webvtt

print("pysubs2", [(line.start, line.end, line.plaintext) for line in pysubs2.load("a.vtt")])
print("webvtt-py", [(caption.start, caption.end, caption.text) for caption in webvtt.read("a.vtt")])
PY
venv/bin/python run.py | tee seen
diff seen - <<'EXPECTED'
pysubs2 [(30, 2389, ''), (719, 930, ''), (2400, 4000, 'siren<00:00:03.000> wails')]
webvtt-py [('00:00:00.030', '00:00:02.389', 'dog barks loudly'), ('00:00:02.400', '00:00:04.000', 'siren wails')]
EXPECTED
