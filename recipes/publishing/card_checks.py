"""Check a checkpoint's card: its metadata, and its figures against the reports next to it."""

import json
import re
from pathlib import Path

from recipes.publishing.model_card import FIGURE_COLUMNS, FIGURES_MARKS, figures_table

# Required metadata of a card, with examples.
METADATA = {
    "license": "such as apache-2.0",
    "language": "a list of codes such as en",
    "library_name": "transformers",
    "pipeline_tag": "such as audio-text-to-text",
    "base_model": "the Hub id of the backbone, or the name that it has elsewhere",
    "datasets": "a list of names of what it was trained on",
    "tags": "a list",
}
UNFILLED = "[More Information Needed]"


def check_card(folder) -> tuple[list[str], list[str]]:
    """Return problems with the `README.md` of a checkpoint folder, and notes for the publisher."""
    from huggingface_hub import ModelCard

    path = Path(folder) / "README.md"
    if not path.is_file():
        return ["README.md, the card, is missing; docs/publishing.md has one to start from."], []
    text = path.read_text(encoding="utf-8")
    try:
        card = ModelCard(text)
        again = ModelCard(str(card)).data.to_dict()
    # YAML's errors, and those of huggingface_hub for a model-index.
    except Exception as error:
        return [f"README.md: its metadata cannot be read: {error}"], []
    data, problems = card.data.to_dict(), []
    for name, example in METADATA.items():
        if not data.get(name):
            problems.append(f"README.md: its metadata lack {name}; write {name}: {example}.")
    if data.get("library_name") not in (None, "transformers"):
        problems.append(f"README.md: library_name is {data['library_name']!r}; write transformers, which loads it.")
    languages = data.get("language") or []
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch(r"[a-z]{2,3}(-\w+)*|multilingual", str(language)):
            problems.append(f"README.md: language is {language!r}; write a code such as en.")
    if data.get("license") == "other" and not data.get("license_name"):
        problems.append("README.md: license is other; name it by license_name and license_link.")
    if again != data:
        problems.append("README.md: huggingface_hub writes other metadata than it reads here; simplify them.")
    if UNFILLED in text:
        problems.append(f"README.md: {text.count(UNFILLED)} places say {UNFILLED!r}; fill them in or remove them.")
    wrong, notes = _check_figures(Path(folder), text, card.data)
    return problems + wrong, notes


def _check_figures(folder, text, data) -> tuple[list[str], list[str]]:
    """Compare the figures in a card's metadata and table with `scores.json` or `report.json`."""
    results, scores, single = data.eval_results or [], _read(folder / "scores.json"), _read(folder / "report.json")
    if not scores and not single:
        note = f"{len(results)} figures in the card, and no scores.json or report.json to compare them with."
        return [], [note if results else "the card has no figures."]
    if not results:
        return ["README.md: it has no model-index, but reports are next to it; name their figures."], []
    problems = []
    for result in results:
        where = f"{result.metric_name or result.metric_type} of {result.dataset_config or result.dataset_name}"
        report = scores.get(f"{data.model_name}, {result.dataset_config}", single)
        column = FIGURE_COLUMNS.get(result.metric_name)
        if not report or not column:
            problems.append(f"README.md: the reports have no {where}; take it out, or call it as the reports do.")
            continue
        value = float(column[1](report))
        # Cards have four decimals.
        if abs(value - float(result.metric_value)) > 6e-5:
            problems.append(f"README.md: {where} is {result.metric_value}, but the report says {value:.4f}.")
    if FIGURES_MARKS[0] in text and figures_table(scores or {data.model_name: single}) not in text:
        problems.append("README.md: its table is not that of the reports; write it again.")
    return problems, [] if problems else [f"{len(results)} figures of the card agree with the reports."]


def _read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
