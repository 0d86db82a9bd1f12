"""The Live tab: a microphone in, and bars that grow while something sounds."""

import html
import struct
from itertools import cycle

import gradio as gr
import numpy as np

from space_app.answers import MAX_QUERIES, split_queries
from space_app.live_session import LiveSession
from space_app.palette import DARK, LIGHT
from space_app.results_view import error_html, seconds_text, table_html
from space_app.uploads import uploads_only

# Seconds that the picture shows; and rows of the table, the last ones.
SPAN, MOST_ROWS = 30.0, 200
HEADER_BYTES = 44


class LiveTab:
    """Build the tab, and hear what its visitors' browsers send.

    Args:
        service: the `Service`.
    """

    def __init__(self, service):
        self.service, self.limits = service, service.limits
        self.sessions: dict[str, LiveSession] = {}

    def build(self, page: gr.Blocks):
        """Add the components and their events."""
        minutes = f"{self.limits.max_live_seconds / 60:g}"
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                microphone = gr.Audio(
                    label=f"Microphone, up to {minutes} minutes", sources=["microphone"], streaming=True,
                    type="filepath", elem_id="microphone", buttons=[],
                )  # fmt: skip
                uploads_only(microphone)
                queries = gr.Textbox(
                    label=f"Queries, one a line, up to {MAX_QUERIES}; none: all sounds", lines=2, max_lines=6,
                    elem_id="live-queries", placeholder="dog bark\na person speaks",
                )  # fmt: skip
                gr.HTML(
                    "<p class='hint'>Press Record and allow the microphone. What is heard is not kept.</p>",
                    padding=False,
                )
            with gr.Column(scale=7, min_width=320):
                status = gr.HTML("<p class='empty'>Nothing is heard yet.</p>", elem_id="live-status", padding=False)
                bars = gr.HTML(elem_id="live-bars", padding=False)
                table = gr.HTML(elem_id="live-table", padding=False)
        shown, hidden = [status, bars, table], {"api_visibility": "private", "show_progress": "hidden"}
        microphone.start_recording(self.start, None, None, **hidden)
        microphone.stream(
            self.hear, [microphone, queries], shown, stream_every=0.5, concurrency_id="live",
            concurrency_limit=self.limits.num_live, time_limit=int(self.limits.max_live_seconds), **hidden,
        )  # fmt: skip
        microphone.stop_recording(self.stop, None, shown, **hidden)
        page.unload(self.leave)

    def start(self, request: gr.Request):
        """Forget what was heard before."""
        if session := self.sessions.pop(request.session_hash, None):
            session.leave()

    async def hear(self, path, queries, request: gr.Request):
        """Take a chunk, and show what was found up to now.

        In the loop of the server, and short: chunks that come while this has not returned replace each other.
        """
        session = self.sessions.get(request.session_hash)
        try:
            if path is None:
                return self.view(session)
            if session is None:
                asked = split_queries(queries) if (queries or "").strip() else None
                session = LiveSession(self.service.pipe, asked, self.limits.max_live_seconds)
                self.sessions[request.session_hash] = session
            if not session.is_over:
                session.put(*read_chunk(self.service.uploads.checked(path)))
            elif session.num_seconds >= self.limits.max_live_seconds:
                raise gr.Error(self._full(), print_exception=False)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            self.service.uploads.release(path)
        return self.view(session)

    def stop(self, request: gr.Request):
        """Close what is open, and show all."""
        if session := self.sessions.get(request.session_hash):
            session.finish()
            session.wait(self.limits.timeout)
        return self.view(session)

    def leave(self, request: gr.Request):
        """Let a visitor's microphone go."""
        self.start(request)

    def view(self, session):
        """Return status, bars and table."""
        if session is None:
            return gr.skip(), gr.skip(), gr.skip()
        events = sorted(session.events.values(), key=lambda event: (event["onset"], event["id"]))
        num_open = sum(event["state"] == "open" for event in events)
        if session.error:
            status = error_html(session.error)
        else:
            text = f"{seconds_text(session.num_seconds)} heard, {len(events) - num_open} events"
            text += f", {num_open} going on" if num_open else ""
            behind = session.num_seconds - session.heard
            text += f"; {seconds_text(behind)} behind" if behind > 2 else ""
            # Gradio forgets chunks that come while another one is being taken.
            text += f"; some {session.num_lost:.0f} s were lost on the way" if session.num_lost > 2 else ""
            if session.is_over and session.num_seconds >= self.limits.max_live_seconds:
                text += f". {self._full()}"
            status = f'<div class="status" role="status">{html.escape(text)}</div>'
        closed = [event for event in events if event["state"] == "closed"][-MOST_ROWS:]
        return status, bars_html(events, session.num_seconds), table_html(closed) if closed else ""

    def _full(self):
        return f"A microphone is heard for {seconds_text(self.limits.max_live_seconds)} at most; record again."


def read_chunk(path: str) -> tuple[int, np.ndarray]:
    """Return sampling rate and samples `(num_samples, num_channels)` of what a browser's microphone sends.

    That is 16-bit PCM after the header of the first chunk, whose sizes say nothing about later ones.

    Raises:
        ValueError: anything else.
    """
    with open(path, "rb") as file:
        head, data = file.read(HEADER_BYTES), file.read()
    if len(head) < HEADER_BYTES or head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
        raise ValueError("The browser sent no wav; choose another browser.")
    kind, num_channels, rate, _, _, bits = struct.unpack("<HHIIHH", head[20:36])
    if (kind, bits) != (1, 16) or not num_channels or not rate:
        raise ValueError(
            f"The browser sent a wav of format {kind} with {bits} bits, not of 16; choose another browser."
        )
    whole = len(data) // (2 * num_channels) * 2 * num_channels
    return rate, np.frombuffer(data[:whole], "<i2").reshape(-1, num_channels)


def bars_html(events: list[dict], now: float) -> str:
    """Return a lane for each label, with the events of the last 30 s; those that go on reach up to now."""
    start = max(0.0, now - SPAN)
    lanes: dict[str, list[str]] = {}
    for event in events:
        onset, offset = max(start, event["onset"]), now if event["offset"] is None else event["offset"]
        if offset <= start:
            continue
        lane = lanes.setdefault(event["event_label"], [])
        end = "\u2026" if event["offset"] is None else f"{event['offset']:.2f}"
        place = f"left:{100 * (onset - start) / SPAN:.2f}%;width:{max(0.4, 100 * (offset - onset) / SPAN):.2f}%"
        lane.append(
            f'<i class="{event["state"]}" data-id="{event["id"]}" style="{place}" '
            f'title="{event["onset"]:.2f} to {end} s"></i>'
        )
    if not lanes:
        return ""
    rows = "".join(
        f'<dt>{html.escape(label)}</dt><dd style="--light:{light};--dark:{dark}">{"".join(parts)}</dd>'
        for (label, parts), light, dark in zip(lanes.items(), cycle(LIGHT), cycle(DARK))
    )
    return f'<dl class="live">{rows}<dt></dt><dd class="axis"><b>{start:.0f} s</b><b>{start + SPAN:.0f} s</b></dd></dl>'
