"""The Live tab: a microphone in, and bars that grow while something sounds.

`live.js` sends what the microphone gives as POST requests to `/live/NAME?rate=HZ`, each with all samples since the last
answer, so that nothing is lost where the server is slow; Gradio's streaming input replaces chunks that come while its
function is busy.
"""

import html
import json
import threading
import time
from itertools import cycle
from urllib.parse import parse_qs

import gradio as gr
import numpy as np

from space_app.answers import MAX_QUERIES, split_queries
from space_app.live_session import LiveSession
from space_app.palette import DARK, LIGHT
from space_app.results_view import error_html, seconds_text, table_html

# Seconds that the picture shows; rows of the table, the last ones; and bytes of a request, some 20 s.
SPAN, MOST_ROWS, MOST_BYTES = 30.0, 200, 1 << 21


def add_live_tab(limits):
    """Add what the tab holds to the page that is being built; live.js does the rest."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            gr.HTML(
                "<button id='live-record' type='button'>Record</button><p class='hint'>The microphone is followed for "
                f"{limits.max_live_seconds / 60:g} minutes at most. Nothing of its sound is kept.</p>",
                padding=False,
            )
            gr.Textbox(
                label=f"Queries, one a line, up to {MAX_QUERIES}; none: all sounds", lines=2, max_lines=6,
                elem_id="live-queries", placeholder="dog bark\na person speaks",
            )  # fmt: skip
        with gr.Column(scale=7, min_width=320):
            gr.HTML(
                "<div id='live-status'><p class='empty'>Nothing is followed yet.</p></div><div id='live-bars'></div>"
                "<div id='live-table'></div>",
                padding=False,
            )


class LiveSessions:
    """Follow the microphones of visitors, so many at a time.

    Args:
        pipe: the pipeline.
        limits: the [`Limits`] of the page.
    """

    def __init__(self, pipe, limits):
        self.pipe, self.limits = pipe, limits
        self.sessions: dict[str, LiveSession] = {}
        self._lock = threading.Lock()

    def take(self, name: str, rate: int, data: bytes, queries: str, is_end: bool) -> LiveSession:
        """Take the next sound of a visitor, 16-bit PCM of one channel, and return the session.

        Raises:
            ValueError: too many are followed, or a rate, queries or data that cannot be.
        """
        if not 4000 <= rate <= 192000 or len(data) % 2 or not 8 <= len(name) <= 64:
            raise ValueError("This is no sound of a microphone: 16-bit PCM, at 4000 to 192000 Hz.")
        with self._lock:
            session = self.sessions.get(name)
            if session is None:
                # Those that have ended may still be asked for their last events.
                now, all_known = time.monotonic(), self.sessions.items()
                self.sessions = {key: one for key, one in all_known if one.is_running or now - one.touched < 60}
                if sum(one.is_running for one in self.sessions.values()) >= self.limits.num_live:
                    num = self.limits.num_live
                    raise ValueError(f"{num} microphones are followed, no more are at a time; try again in a minute.")
                asked = split_queries(queries) if queries.strip() else None
                session = self.sessions[name] = LiveSession(self.pipe, asked, self.limits.max_live_seconds)
        session.touched = time.monotonic()
        if data:
            session.put(rate, np.frombuffer(data, "<i2"))
        if is_end:
            session.finish()
        return session

    def view(self, session: LiveSession) -> dict:
        """Return the HTML of status, bars and table, and whether all is over."""
        events = sorted(session.events.copy().values(), key=lambda event: (event["onset"], event["id"]))
        closed = [event for event in events if event["state"] == "closed"]
        if session.error:
            status = error_html(session.error)
        else:
            text = f"{seconds_text(session.num_seconds)}, {len(closed)} events"
            text += f", {len(events) - len(closed)} going on" if len(closed) < len(events) else ""
            behind = session.num_seconds - session.heard
            text += f"; {seconds_text(behind)} behind" if behind > 2 else ""
            if session.num_seconds >= self.limits.max_live_seconds:
                text += f". More than {seconds_text(self.limits.max_live_seconds)} are not followed; record again."
            status = f'<div class="status" role="status">{html.escape(text)}</div>'
        return {
            "status": status,
            "bars": bars_html(events, session.heard),
            "table": table_html(closed[-MOST_ROWS:]) if closed else "",
            "is_over": not session.is_running,
        }

    def middleware(self, app):
        """Return an ASGI application that answers `POST /live/NAME?rate=HZ&queries=...&end=1` before the page's own."""

        async def live(scope, receive, send):
            head, _, name = scope.get("path", "").rpartition("/")
            if scope["type"] != "http" or scope["method"] != "POST" or not head.endswith("/live"):
                return await app(scope, receive, send)
            query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
            body, more = b"", True
            while more and len(body) <= MOST_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, more = body + message.get("body", b""), message.get("more_body", False)
            try:
                if more:
                    raise ValueError("This is more sound than is taken at once.")
                rate = int(query.get("rate", "0")) if query.get("rate", "0").isdecimal() else 0
                shown = self.view(self.take(name, rate, body, query.get("queries", ""), "end" in query))
            except ValueError as error:
                shown = {"status": error_html(str(error)), "bars": "", "table": "", "is_over": True}
            answer = json.dumps(shown).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

        return live


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
