"""What the model was given and what it said, letter by letter: the prompt with its ticks, and the raw answers."""

import html
import re

from space_app.checkpoint_code import carried

# So many windows are shown; the rest is in the downloads.
MAX_WINDOWS = 40
_TIME = re.compile(r"&lt;[0-9]+\.[0-9]+&gt;")


def prompt_of(pipe, task: str, query: str | None, waveform) -> str:
    """Return the prompt about one window as the tokenizer spells it, a token for every tick and every audio frame."""
    processor = pipe.processor
    text = carried(pipe, "answer_text").prompt_text(task, query)
    content = [{"type": "audio"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, audio=[waveform], return_tensors="pt")
    return processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=False)


def prompt_html(pipe, answers) -> str:
    """Return the prompt of the first window, and the raw answers of the first windows, as HTML."""
    window, rate = answers.results[0]["windows"][0], answers.sampling_rate
    waveform = answers.waveform[round(window["start"] * rate) : round(window["end"] * rate)]
    prompt = html.escape(prompt_of(pipe, answers.task, answers.queries[0], waveform))
    frame = html.escape(pipe.processor.audio_token)
    num_frames = prompt.count(frame)
    prompt = _TIME.sub(lambda match: f"<b>{match[0]}</b>", prompt).replace(frame, '<i title="audio frame">\u2592</i>')
    rows = []
    for query, result in zip(answers.queries, answers.results, strict=True):
        for one in result["windows"][:MAX_WINDOWS]:
            about = f" \u201c{html.escape(query)}\u201d" if query else ""
            text = _TIME.sub(lambda match: f"<b>{match[0]}</b>", html.escape(one["text"]))
            rows.append(
                f"<tr><th>{one['start']:.2f}\u2013{one['end']:.2f} s{about}</th><td><code>{text}</code></td></tr>"
            )
        if len(result["windows"]) > MAX_WINDOWS:
            rows.append(f"<tr><th></th><td>and {len(result['windows']) - MAX_WINDOWS} windows more</td></tr>")
    return (
        '<div class="raw"><h4>Raw answer</h4><p>Times are those of the window.</p>'
        f"<table>{''.join(rows)}</table>"
        f"<h4>Prompt of the first window</h4><p>{num_frames} audio frames, drawn as \u2592; before them the ticks that "
        f'date them.</p><pre tabindex="0">{prompt}</pre></div>'
    )
