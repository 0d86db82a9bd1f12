"""What is told of an answer in words and tables, as HTML in which every name and label is text."""

import html


def seconds_text(seconds: float) -> str:
    """Return a length as `12.3 s`, from two minutes on as `m:ss`."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def error_html(message: str) -> str:
    """Return a refusal."""
    return f'<div class="status error" role="alert">{html.escape(message)}</div>'


def progress_html(answers) -> str:
    """Return how much of a recording was processed."""
    heard = answers.results[0]["duration"] if answers.results else 0.0
    text = f"Listening to {html.escape(answers.name)}"
    if answers.num_windows > 1:
        text += f": window {answers.num_done} of {answers.num_windows}"
        text += f", {seconds_text(heard)} of {seconds_text(answers.duration)}"
    bar = (
        f'<progress max="{answers.num_windows}" value="{answers.num_done}"></progress>'
        if answers.num_done
        else "<progress></progress>"
    )
    return f'<div class="status" role="status">{bar}<span>{text}</span></div>'


def summary_html(answers, threshold: float) -> str:
    """Return what came out in one sentence."""
    events, num_all = answers.events(threshold), len(answers.events())
    count = "no event" if not events else "1 event" if len(events) == 1 else f"{len(events)} events"
    text = f"<strong>{count}</strong> in {html.escape(answers.name)} ({seconds_text(answers.duration)})"
    if num_all > len(events):
        text += f", {num_all - len(events)} more below the threshold of {threshold:.2f}"
    text += "."
    for query, result in zip(answers.queries, answers.results, strict=True):
        if query and not result["events"]:
            text += f" Not heard: {html.escape(query)}."
    if answers.unread:
        text += (
            f" {len(answers.unread)} answers could not be read, such as {html.escape(repr(answers.unread[0][:80]))}."
        )
    if answers.num_truncated:
        text += f" Answers that ran out of room: {answers.num_truncated}; events may be missing, try shorter windows."
    return f'<div class="status done" role="status">{text}</div>'


def table_html(events: list[dict], decimals: int = 2) -> str:
    """Return a table that a click on a heading sorts, see page.js; `data-` attributes hold the exact values."""
    if not events:
        return '<p class="empty">No events to show.</p>'
    head = "".join(
        f'<th scope="col" aria-sort="{"none" if place else "ascending"}"><button type="button">{text}</button></th>'
        for place, text in enumerate(("Onset (s)", "Offset (s)", "Length (s)", "Score", "Event"))
    )
    rows = []
    for event in events:
        cells = [(event[name], f"{event[name]:.{decimals}f}") for name in ("onset", "offset")]
        length = event["offset"] - event["onset"]
        cells.append((length, f"{length:.{decimals}f}"))
        cells.append((-1, "\u2013") if event["score"] is None else (event["score"], f"{event['score']:.2f}"))
        numbers = "".join(f'<td data-value="{value!r}">{text}</td>' for value, text in cells)
        label = html.escape(event["event_label"])
        rows.append(
            f'<tr data-onset="{event["onset"]!r}" data-offset="{event["offset"]!r}">{numbers}'
            f'<td data-value="{label}">{label}</td></tr>'
        )
    body = "".join(rows)
    table = f'<table class="events"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="table-scroll">{table}</div>'


def scores_html(scores: dict | None) -> str:
    """Return how the events agree with the reference labels."""
    if scores is None:
        return ""
    miou = "\u2013" if scores["miou"] is None else f"{scores['miou']:.3f}"
    return (
        '<dl class="scores" role="status">'
        f"<div><dt>Eb-F1</dt><dd>{scores['f1']:.3f}</dd></div><div><dt>mIoU</dt><dd>{miou}</dd></div>"
        f"<div><dt>matched</dt><dd>{scores['num_matched']}</dd></div>"
        f"<div><dt>of reference</dt><dd>{scores['num_reference']}</dd></div>"
        f"<div><dt>shown</dt><dd>{scores['num_predicted']}</dd></div></dl>"
        '<p class="hint">Of this file, at this threshold. Eb-F1: onsets within 0.2 s, offsets within 0.2 s or 20 % of '
        "the length. mIoU: mean over the labels that are there.</p>"
    )
