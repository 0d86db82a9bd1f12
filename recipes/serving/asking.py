"""Requests to a server: what passes is tried again with growing pauses, and what goes wrong is said."""

import base64
import io
import os
import random
import time

import httpx
import soundfile

from recipes.evaluation.runner import Unavailable

# Seconds until the next try, doubled each time, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# Times out, cannot be reached, or has too much to do: worth another try.
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


def open_http(timeout) -> httpx.Client:
    """Return a client whose answers may take `timeout` seconds; `TIMEPRO_API_KEY`, if it is set, goes along."""
    key = os.environ.get("TIMEPRO_API_KEY")
    return httpx.Client(
        timeout=httpx.Timeout(timeout, connect=10), headers={"Authorization": f"Bearer {key}"} if key else {}
    )


def sound_block(samples, rate) -> dict:
    """Return the block of a chat that carries mono `samples` at `rate` hertz."""
    buffer = io.BytesIO()
    # Floats, so that the server hears exactly what is heard here.
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def ask(http, method, url, body=None, num_tries=5):
    """Return what a server answers to a request, as JSON, or `None` for an empty answer.

    Raises:
        ValueError: it refuses the request.
        Unavailable: it cannot be reached, or answers nothing that can be read, as often as it is tried.
    """
    problem = ""
    for number in range(1, num_tries + 1):
        pause = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
        try:
            reply = http.request(method, url, json=body)
            if reply.status_code not in PASSING:
                break
            problem = f"status {reply.status_code}: {reply.text[:200]}"
            pause = max(pause, min(_seconds(reply.headers.get("retry-after")), LONGEST_PAUSE))
        except httpx.TimeoutException:
            problem = f"no answer in {http.timeout.read:g} s"
        except httpx.TransportError as error:
            problem = f"{type(error).__name__}: {error}"
        if number < num_tries:
            time.sleep(pause)
    else:
        raise Unavailable(f"{url} does not answer, tried {num_tries} times: {problem}")
    if reply.status_code in (401, 403, 404):
        raise Unavailable(
            f"{url} answered status {reply.status_code}: {reply.text[:200]}; check the URL (that of --backend ends in "
            "/v1), and TIMEPRO_API_KEY."
        )
    if reply.status_code >= 400:
        raise ValueError(f"the server refused the question, status {reply.status_code}: {reply.text[:300]}")
    try:
        return reply.json() if reply.content else None
    except ValueError:
        raise Unavailable(f"{url} answered {reply.text[:100]!r}, which is no JSON; is it a server of vLLM?") from None


def _seconds(text) -> float:
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        return 0.0
