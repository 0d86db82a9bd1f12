"""What the model is and is not, read from the checkpoint: its configuration, and its card with the measured figures."""

import html
import re
from pathlib import Path

# The figures of a card are between two marks.
_FIGURES = re.compile(r"<!-- figures:[^>]*-->\s*(.*?)<!-- end of figures -->", re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
# Up to here a language model is a small one.
SMALL = 100_000_000


def read_card(model: str) -> str:
    """Return the card of a checkpoint without its metadata, empty if it has none."""
    from transformers.utils import cached_file

    path = cached_file(model, "README.md", _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False)  # fmt: skip
    return _FRONT_MATTER.sub("", Path(path).read_text(encoding="utf-8")).strip() if path else ""


def card_figures(card: str) -> list[dict[str, str]]:
    """Return the rows of the card's table of figures, each `{column: cell}`; the first column is called `name`."""
    found = _FIGURES.search(card)
    if not found:
        return []
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found[1].strip().splitlines()]
    columns = ["name", *rows[0][1:]]
    return [dict(zip(columns, row, strict=True)) for row in rows[2:]]


def card_section(card: str, heading: str) -> list[str]:
    """Return the bullets of a section of the card."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)
    return [
        " ".join(item.split()) for item in re.findall(r"^- (.*(?:\n  .*)*)", found[1] if found else "", re.MULTILINE)
    ]


def model_facts(pipe, model: str) -> dict:
    """Return what can be said about the loaded model.

    Returns:
        `name`; `num_parameters`; `labels`, those it knows, `[]` for any; `max_time`, seconds of a window; `figures`,
        rows of the card's table that are about it; `limits`, what the card says it cannot; `card`, its text; `url` of
        the card if it is on the Hub, else `None`.
    """
    card, config = read_card(model), pipe.model.config
    is_local = Path(model).is_dir()
    name = Path(model).resolve().name if is_local else model
    figures = card_figures(card)
    # The table has those of its peers, too.
    own = [row for row in figures if row["name"].split(",")[0] == figures[0]["name"].split(",")[0]]
    return {
        "name": name,
        # Frozen parts are buffers, which transformers does not count.
        "num_parameters": sum(tensor.numel() for tensor in pipe.model.state_dict().values()),
        "labels": _labels(config),
        "max_time": float(pipe.processor.chunk_length_s or pipe.processor.max_time),
        "figures": own,
        "limits": card_section(card, "Limits and known failures"),
        "card": card,
        "url": None if is_local else f"https://huggingface.co/{model}",
    }


def _labels(config):
    """Return the labels that a model names when nobody says how to decode: those of its text, its frames, or both."""
    written, grounder = getattr(config, "event_labels", None) or [], getattr(config, "frame_grounder", None) or {}
    heard = grounder.get("labels") if grounder.get("decode", "text") != "text" else None
    return sorted({*written, *(heard or ())}) if written else []


def facts_html(facts: dict) -> str:
    """Return the mark that says what the model is and is not, as HTML."""
    escape, count = html.escape, facts["num_parameters"]
    size = f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    kind = "a small model" if count < SMALL else "a model"
    known = (
        f"It knows {len(facts['labels'])} kind{'s' * (len(facts['labels']) > 1)} of sound and nothing else."
        if facts["labels"] else "It takes descriptions in any words."
    )  # fmt: skip
    link = f'<a href="{escape(facts["url"])}" target="_blank" rel="noopener">card</a>' if facts["url"] else ""
    link = link or '<a href="#model-card">card</a>'
    parts = [f"<p><strong>{escape(facts['name'])}</strong> is {kind} of {size} parameters. {known} "]
    has_card = facts["card"] or facts["url"]
    parts.append(f"What was measured, and how, says its {link}.</p>" if has_card else "It has no card.</p>")
    if facts["figures"]:
        # Without their intervals, which the card has.
        shown = [name for name in facts["figures"][0] if name.startswith(("Eb-F1 micro", "R@", "mIoU", "absent"))]
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in shown)
        rows = []
        for row in facts["figures"]:
            name = row["name"].partition(",")[2].strip() or row["name"]
            cells = "".join(f"<td>{escape(row[column].split(' ')[0])}</td>" for column in shown)
            rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
        parts.append(f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    if facts["labels"]:
        chips = "".join(f"<li>{escape(label)}</li>" for label in facts["labels"])
        parts.append(f'<details><summary>What it knows</summary><ul class="labels">{chips}</ul></details>')
    if facts["limits"]:
        items = "".join(f"<li>{escape(text)}</li>" for text in facts["limits"])
        parts.append(f"<details><summary>What it is not</summary><ul>{items}</ul></details>")
    return f'<aside class="model-facts" aria-label="About the model">{"".join(parts)}</aside>'
