"""The attention of an answer to the time prompt, and its picture."""

from pathlib import Path

import numpy as np
import pytest
import torch

from processing.answer_text import prompt_text
from processing.events import Event
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.small.attention_plot import answer_to, main, plot_attention
from space_app.attention_view import attention_of

QUESTION = prompt_text("detection")
EXAMPLES = Path(__file__).parents[1] / "space_app" / "examples"


@pytest.fixture(scope="module")
def checkpoint(lively_checkpoint, tmp_path_factory):
    """Return a folder with a model that says ticks only."""
    model, processor = lively_checkpoint
    folder = tmp_path_factory.mktemp("talkative")
    before = model.generation_config.suppress_tokens
    ticks = model.config.time_token_ids
    model.generation_config.suppress_tokens = [i for i in range(model.config.text_config.vocab_size) if i not in ticks]
    model.generation_config.max_new_tokens = 4
    save_checkpoint(model, processor, folder)
    model.generation_config.suppress_tokens = before
    return folder


@pytest.fixture(scope="module")
def waveform():
    return (0.1 * np.random.default_rng(0).normal(size=32000)).astype(np.float32)


def test_attention_is_that_of_the_positions_that_say_times(checkpoint, waveform):
    model, processor = load_checkpoint(checkpoint, attn_implementation="eager")
    looks = attention_of(model.eval(), processor, waveform, QUESTION, answer_to(model, processor, waveform, QUESTION))
    # 2 s at 12.5 frames a second are 25 frames, each behind its tick.
    assert looks["to_ticks"].shape == looks["to_frames"].shape == (4, 25) and len(looks["said"]) == 4
    assert all(f"<{seconds:.2f}>" in looks["text"] for seconds in looks["said"])
    # By hand: the first time is said by the last token of the prompt.
    blocks = [{"type": "audio"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
    inputs = processor(text=text, audio=[waveform], return_tensors="pt")
    with torch.no_grad():
        attention = torch.stack(model(**inputs, output_attentions=True).attentions)[:, 0, :, -1].mean((0, 1))
    is_frame = inputs["input_ids"][0] == model.config.audio_token_id
    np.testing.assert_allclose(looks["to_frames"][0], attention[is_frame].numpy(), rtol=1e-4)
    before = torch.nn.functional.pad(is_frame[1:], (0, 1))
    np.testing.assert_allclose(looks["to_ticks"][0], attention[before].numpy(), rtol=1e-4)


def test_a_model_that_hides_its_attention_shows_it_for_once(checkpoint, waveform):
    looks = {}
    for name in ("sdpa", "eager"):
        model, processor = load_checkpoint(checkpoint, attn_implementation=name)
        looks[name] = attention_of(model.eval(), processor, waveform, QUESTION, "<0.40>-<0.80>")
        assert model.model.language_model.config._attn_implementation == name
    np.testing.assert_allclose(looks["sdpa"]["to_ticks"], looks["eager"]["to_ticks"], rtol=1e-5)
    model.config.time_prompt = False
    with pytest.raises(ValueError, match="no ticks in its prompt"):
        attention_of(model, processor, waveform, QUESTION, "none")


def test_the_picture_has_a_row_for_every_time(waveform, tmp_path):
    looks = {"said": [0.4, 1.2], "to_ticks": np.zeros((2, 25)), "to_frames": np.eye(2, 25)}
    events = [Event(0.4, 1.2, "siren")]
    figure = plot_attention(waveform, 16000, looks, 0.08, events, [Event(0.5, 1.0, "siren")], tmp_path / "a.png", "t")
    mel, lane, ticks, frames = figure.axes[:4]
    assert [label.get_text() for label in frames.get_yticklabels()] == ["0.40 s", "1.20 s"]
    bars = [(bar.get_x(), round(bar.get_x() + bar.get_width(), 6)) for bar in lane.patches]
    assert bars == [(0.5, 1.0), (0.4, 1.2)]
    assert frames.get_xlim() == (0, 2.0) and frames.get_xlabel() == "time (s)"
    assert [line.get_xdata()[0] for line in ticks.lines] == [0.5, 1.0]
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_an_answer_without_times_is_no_picture(tmp_path, capsys):
    recording, annotations = (str(EXAMPLES / f"farmyard.{suffix}") for suffix in ("flac", "tsv"))
    arguments = [recording, "--query", "siren", "--reference", annotations]
    with pytest.raises(SystemExit):
        main([*arguments, "--out", str(tmp_path / "a.png")])
    assert "no times to draw" in capsys.readouterr().err and not (tmp_path / "a.png").exists()
