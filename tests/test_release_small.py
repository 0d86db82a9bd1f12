"""The embedded checkpoint: how it is stored, and figures in cards that come from reports alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from modeling_timepro import TimeProAudioForCausalLM
from processing.events import Event
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.data.clip import AnnotatedClip
from recipes.data.questions import SCORING, questions
from recipes.evaluation.report import make_report
from recipes.publishing.model_card import FAILURES_MARKS, FIGURES_MARKS, RECORDINGS_MARKS, figures_table, fill
from recipes.small.average_checkpoints import average_checkpoints
from recipes.small.link_code import code_sources, link_code
from recipes.small.release import CARDS, release


@pytest.fixture(scope="module")
def report():
    dog, siren = Event(1.0, 2.0, "dog bark"), Event(4.0, 6.0, "siren")
    clips = [AnnotatedClip("a", (dog, siren), absent=("drum",)), AnnotatedClip("b", (), absent=("drum",))]
    asked = [question for clip in clips for question in questions(clip, SCORING)]
    answers = {
        ("a", "detection", None): [dog],
        ("a", "grounding", "dog bark"): [dog],
        ("a", "grounding", "siren"): [Event(4.0, 4.5, "siren")],
        ("a", "grounding", "drum"): [],
        ("b", "detection", None): [],
        ("b", "grounding", "drum"): [siren],
    }
    report = {"num_clips": 2, "model": "m", "data": "d", **make_report(clips, asked, answers)}
    return {**report, "worst_clips": [{"id": "b", "f1": 0.0}], "failures": []}


def test_the_table_holds_the_figures_of_the_reports(report):
    lines = figures_table({"ours": report}).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert len(lines) == 3 and len(cells) == lines[0].count("|") - 1
    assert cells[0] == "ours"
    # One of two events found and no false alarm: F1 = 2 / (2 + 1).
    assert cells[1].startswith("0.667 [")
    # The dog is found whole, a quarter of the siren is.
    assert cells[3].startswith("0.500 [") and cells[4].startswith("0.625 [") and cells[5].startswith("0.500 [")
    assert cells[6] == "0.000"


def test_figures_replace_what_stood_between_the_marks():
    start, end = FIGURES_MARKS
    card = f"above\n{start}\nold | table\n{end}\nbelow\n"
    filled = fill(card, FIGURES_MARKS, "| new \\1 |\n")
    assert filled == f"above\n{start}\n| new \\1 |\n{end}\nbelow\n"
    assert fill(filled, FIGURES_MARKS, "| new \\1 |\n") == filled
    with pytest.raises(ValueError, match="no marks"):
        fill("a card", FIGURES_MARKS, "a table")


def test_a_release_is_half_as_large_and_answers_in_float32(scripted_checkpoint, report, tmp_path):
    folder = scripted_checkpoint("dog bark")
    log = {"log_history": [{"loss": 2.0, "step": 1}, {"eval": 1}, {"train_runtime": 9.0, "step": 1}]}
    (folder / "trainer_state.json").write_text(json.dumps(log))
    (tmp_path / "report.json").write_text(json.dumps(report))
    baseline = {f"test_{name}": report for name in ("field", "seen", "unseen")}
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    cards = (tmp_path / "a.md", tmp_path / "b.md")
    for card in cards:
        card.write_text(f"{card.name}\n" + "\n".join(FIGURES_MARKS + FAILURES_MARKS + RECORDINGS_MARKS))
    out, path = tmp_path / "small", str(tmp_path / "report.json")
    release(folder, path, path, path, [tmp_path / "baseline.json"], out, cards, log=folder / "trainer_state.json")
    (folder / "trainer_state.json").unlink()
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
    assert TimeProAudioForCausalLM.from_pretrained(out).dtype == torch.float32
    original, stored = load_checkpoint(folder)[0].state_dict(), load_checkpoint(out)[0].state_dict()
    for name, tensor in original.items():
        torch.testing.assert_close(stored[name], tensor, rtol=1e-3, atol=1e-6)
    assert cards[0].read_text().count("0.667 [") == 6
    assert (out / "README.md").read_text() == cards[1].read_text()
    assert len((out / "training_log.jsonl").read_text().splitlines()) == 2
    scores = json.loads((out / "scores.json").read_text())
    assert len(scores) == 6
    for scored in scores.values():
        assert set(scored) == {"num_clips", "detection", "grounding", "rejection"}


def test_a_release_writes_no_source_that_its_folder_links_to(scripted_checkpoint, report, tmp_path):
    checkpoint = Path(shutil.copytree(scripted_checkpoint("dog bark"), tmp_path / "trained"))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": []}))
    (tmp_path / "report.json").write_text(json.dumps(report))
    baseline = {f"test_{name}": report for name in ("field", "seen", "unseen")}
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    card = tmp_path / "card.md"
    card.write_text("\n".join(FIGURES_MARKS + FAILURES_MARKS + RECORDINGS_MARKS))
    out, path = tmp_path / "small", str(tmp_path / "report.json")
    out.mkdir()
    (out / "config.json").write_text((checkpoint / "config.json").read_text())
    link_code(out)
    sources = {**code_sources(), "README.md": CARDS[-1]}
    before = {name: source.read_bytes() for name, source in sources.items()}
    release(
        checkpoint, path, path, path, [tmp_path / "baseline.json"], out, (card,), log=checkpoint / "trainer_state.json"
    )
    assert before == {name: source.read_bytes() for name, source in sources.items()}
    assert {item.name: item.resolve() for item in out.iterdir() if item.is_symlink()} == sources
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".small")]
    noise = (0.1 * np.random.default_rng(0).normal(size=16000)).astype(np.float32)
    assert load_pipeline(out)(noise)["text"] == load_pipeline(checkpoint)(noise)["text"]


def test_averaged_weights_are_the_mean_of_those_of_like_checkpoints(scripted_checkpoint, tmp_path):
    first, second = scripted_checkpoint("dog bark"), tmp_path / "second"
    model, processor = load_checkpoint(first)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
    save_checkpoint(model, processor, second)
    average_checkpoints([str(first), str(second)], tmp_path / "mean")
    for name, value in load_checkpoint(tmp_path / "mean")[0].named_parameters():
        torch.testing.assert_close(value, before[name] + 0.5)
    with pytest.raises(ValueError, match="give two or more"):
        average_checkpoints([str(first)], tmp_path / "one")
    with pytest.raises(ValueError, match="weights of other names or shapes"):
        average_checkpoints([str(first), str(DEFAULT_CHECKPOINT)], tmp_path / "other")


def test_a_copy_whose_links_lead_nowhere_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "timepro_audio"}')
    (tmp_path / "events.py").symlink_to("../../nowhere/events.py")
    with pytest.raises(ValueError, match="events.py links to a file that is not there; copy checkpoints with cp -rL"):
        load_pipeline(tmp_path)


def test_figures_of_fewer_recordings_are_not_released(report, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({**report, "failures": [{"id": "a"}]}))
    path = str(tmp_path / "report.json")
    with pytest.raises(ValueError, match="field has 1 recordings that failed"):
        release(tmp_path, path, path, path, [path], tmp_path / "small", ())


@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_cards_and_scores_of_the_embedded_checkpoint_agree():
    table = figures_table(json.loads((DEFAULT_CHECKPOINT / "scores.json").read_text()))
    for card in (*CARDS, DEFAULT_CHECKPOINT / "README.md"):
        assert table in card.read_text(encoding="utf-8"), f"{card}: run python -m recipes.small.release"
    assert (DEFAULT_CHECKPOINT / "README.md").read_bytes() == CARDS[-1].read_bytes()
