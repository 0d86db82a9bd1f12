#!/bin/bash
# Chunks that a streaming input sends while its function is still busy: gradio 6.31.0.
# Expected: each chunk is one call of the function, in order; `stream_every` "is the latency at which stream chunks are
# sent to the backend", and a microphone's sound is all there.
# Seen: each chunk takes the place of the one before, and a function that is slower than the chunks gets the last one
# alone: of five, the first and the fifth. No error, no warning, on neither side; sound is cut out, and times after it are early.
# For us: the Live tab sends all samples since the last answer by requests of its own, one after the other.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q gradio==6.31.0
cat > run.py <<'PY'
import threading
import time

import gradio as gr
import httpx

calls, done = [], threading.Event()


def hear(microphone, name):
    calls.append(name)
    time.sleep(2)
    if name == "chunk 4":
        done.set()


with gr.Blocks() as page:
    microphone, name = gr.Audio(sources=["microphone"], streaming=True), gr.Textbox()
    microphone.stream(hear, [microphone, name], None, stream_every=0.5, time_limit=60)
page.queue()
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
api, session = f"{url.rstrip('/')}/gradio_api", {"session_hash": "one"}
client = httpx.Client(timeout=30)


def listen():
    with httpx.stream("GET", f"{api}/queue/data", params=session, timeout=30) as events:
        for _ in events.iter_lines():
            pass


def body(index):
    return {"data": [None, f"chunk {index}"], "fn_index": 0, **session}


event = client.post(f"{api}/queue/join", json=body(0)).json()["event_id"]
threading.Thread(target=listen, daemon=True).start()
while not calls:
    time.sleep(0.05)
for index in range(1, 5):
    print("sent chunk", index, client.post(f"{api}/stream/{event}", json=body(index)).json()["msg"])
    time.sleep(0.1)
done.wait(20)
print("heard", *calls, sep=", ")
page.close(verbose=False)
PY
GRADIO_ANALYTICS_ENABLED=False venv/bin/python run.py 2> errors | tee seen
diff seen - <<'EXPECTED'
sent chunk 1 success
sent chunk 2 success
sent chunk 3 success
sent chunk 4 success
heard, chunk 0, chunk 4
EXPECTED
