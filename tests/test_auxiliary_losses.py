"""The losses that teach reading times: what they ask for, and that they equal the model's own attention."""

import pytest
import torch
from torch.nn import functional as F

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeGrid
from recipes.training.auxiliary_losses import READING_LOSSES, TimeReading, dates, label_positions

# Ids 0 to 9 are text, 1 of them the start of a clip, 10 is a frame, 11 the end of a clip, 20 to 39 are ticks.
START, FRAME, END, TICKS = 1, 10, 11, range(20, 40)


class Tokenizer:
    """Knows the two tokens that enclose a clip."""

    def convert_tokens_to_ids(self, tokens):
        return [{"<|audio_bos|>": START, "<|audio_eos|>": END}[token] for token in tokens]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TimeProAudioConfig(
        audio_config={"model_type": "timepro_yamnet", "num_hidden_layers": 1, "hidden_size": 16},
        text_config={
            "model_type": "qwen2", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32,
        },
        audio_token_id=FRAME, time_token_start_id=TICKS.start, num_time_tokens=len(TICKS), max_time=0.8,
    )  # fmt: skip
    model = TimeProAudioForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def prompt():
    """Two samples: three dated frames and two, questions, and answers that name times."""
    ids = torch.tensor(
        [
            [1, 20, FRAME, 21, FRAME, 22, FRAME, END, 5, 21, 6, 23, 2],
            [1, 20, FRAME, 21, FRAME, END, 5, 20, 6, 21, 2, 0, 0],
        ]
    )
    targets = torch.full_like(ids, -100)
    targets[0, 8:12] = ids[0, 9:13]
    targets[1, 6:10] = ids[1, 7:11]
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    return {"input_ids": ids, "attention_mask": mask}, targets


def dated(row, time_step=0.04):
    """Return `(position, tick)` of what is dated in a row of ids."""
    grid = TimeGrid(frame_rate=25.0, time_step=time_step, max_time=0.8)
    ticks = dates(torch.tensor([row]), grid, FRAME, START, END)[0].tolist()
    return [(place, tick) for place, tick in enumerate(ticks) if tick >= 0]


def test_frames_are_dated_by_their_tick_and_the_end_by_the_one_that_would_follow():
    # Two clips, each counted from its own start.
    row = [START, 20, FRAME, 21, FRAME, FRAME, END, 3, START, 20, FRAME, END]
    assert dated(row) == [(2, 0), (4, 1), (5, 2), (6, 3), (10, 0), (11, 1)]


def test_whether_ticks_stand_in_the_prompt_makes_no_difference():
    assert dated([START, FRAME, FRAME, END, 2]) == [(1, 0), (2, 1), (3, 2)]


def test_no_tick_follows_the_last_one():
    # 0.8 s hold 20 frames, and the last tick is 0.76 s.
    assert dated([START, *[FRAME] * 20, END])[-1] == (20, 19)


def test_a_tick_of_several_frames_dates_the_first_of_them():
    # A tick every 0.12 s: frames 0, 3, 6; the end of 5 frames (0.20 s) is dated by the tick at 0.24 s.
    assert dated([START, *[FRAME] * 5, END], time_step=0.12) == [(1, 0), (4, 1), (6, 2)]


def test_the_pointer_loss_is_the_models_own_attention(model):
    inputs, targets = prompt()
    reading = TimeReading(model, Tokenizer())
    assert reading.layer == 1 and reading.heads == [0, 2]
    text = model.model.language_model
    text.set_attn_implementation("eager")
    with torch.no_grad():
        # Frames without audio: the text model alone runs over the same tokens.
        outputs = text(**inputs, output_attentions=True, output_hidden_states=True)
        loss = reading(outputs.hidden_states[1], inputs, targets)["pointer"]
    text.set_attn_implementation("sdpa")
    weights = outputs.attentions[1]
    # (sample, where the time is said, the frame or end that it dates)
    wanted = [(0, 8, 4), (0, 10, 7), (1, 6, 2), (1, 8, 4)]
    expected = -torch.stack([weights[row, head, q, k].log() for row, q, k in wanted for head in (0, 2)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_branches_of_one_prompt_give_the_loss_of_separate_sequences(model):
    from recipes.training.collator import branch_mask

    prefix, answers = [1, 20, FRAME, 21, FRAME, END], [[5, 20, 2], [6, 7, 21, 2]]
    reading, text = TimeReading(model, Tokenizer()), model.model.language_model

    def losses(ids, positions, mask, learnt):
        ids = torch.tensor([ids])
        targets = torch.full_like(ids, -100)
        for place in learnt:
            targets[0, place - 1] = ids[0, place]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": torch.tensor([positions])}
        with torch.no_grad():
            hidden = text(**inputs, output_hidden_states=True).hidden_states[1]
            found = reading(hidden, inputs, targets)
            return found["clock"], found["pointer"]

    alone = []
    for answer in answers:
        ids = prefix + answer
        learnt = [i for i, token in enumerate(ids) if i >= len(prefix) and token >= TICKS.start]
        alone.append(losses(ids, list(range(len(ids))), torch.ones(1, len(ids), dtype=torch.long), learnt))
    both = prefix + answers[0] + answers[1]
    positions = [*range(len(prefix)), *range(6, 9), *range(6, 10)]
    mask = branch_mask(len(prefix), [3, 4], len(both))[None, None]
    clock, pointer = losses(both, positions, mask, [7, 11])
    torch.testing.assert_close(pointer, (alone[0][1] + alone[1][1]) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clock, alone[0][0], rtol=1e-4, atol=1e-5)


def test_where_there_is_no_time_the_heads_look_at_the_start_of_the_clip(model):
    inputs, targets = prompt()
    names = torch.full_like(targets, -100)
    # Of the second sample the last answer token is no time but the absence of label 4.
    targets[1, 8], names[1, 8] = 7, 4
    text = model.model.language_model
    text.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = text(**inputs, output_attentions=True, output_hidden_states=True)
        losses = TimeReading(model, Tokenizer())(outputs.hidden_states[1], inputs, targets, names)
        logits = model.lm_head(text.norm(outputs.hidden_states[1][1, 8]))
    text.set_attn_implementation("sdpa")
    wanted = [(0, 8, 4), (0, 10, 7), (1, 6, 2), (1, 8, 0)]
    weights = outputs.attentions[1]
    expected = -torch.stack([weights[row, head, q, k].log() for row, q, k in wanted for head in (0, 2)]).mean()
    torch.testing.assert_close(losses["pointer"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["name"], F.cross_entropy(logits, torch.tensor(4)), rtol=1e-4, atol=1e-5)


def test_answers_without_times_give_no_loss_but_of_the_clock(model):
    inputs, targets = prompt()
    targets[:] = -100
    hidden = torch.randn(2, inputs["input_ids"].shape[1], 32, requires_grad=True)
    losses = TimeReading(model, Tokenizer())(hidden, inputs, targets)
    assert losses["pointer"].item() == 0 and losses["name"].item() == 0 and losses["clock"].item() > 0
    sum(losses.values()).backward()
    assert hidden.grad.abs().sum() > 0


def test_the_losses_can_be_learnt(model):
    inputs, targets = prompt()
    names = torch.where((targets >= TICKS.start) & (targets < TICKS.stop), 3, -100)
    reading = TimeReading(model, Tokenizer())
    hidden = torch.randn(2, inputs["input_ids"].shape[1], 32, generator=torch.Generator().manual_seed(0))
    hidden.requires_grad_()
    layer = model.model.language_model.layers[1]
    optimizer = torch.optim.Adam([hidden, *layer.parameters(), *model.lm_head.parameters()], lr=1e-2)
    history = []
    for _ in range(60):
        losses = reading(hidden, inputs, targets, names)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in READING_LOSSES:
        assert history[-1][name] < 0.3 * history[0][name], name


@pytest.mark.parametrize(
    ("answer", "event_label", "expected"),
    [
        ("<1.04>-<2.08>, <3.04>-<4.00>", "hen", [(0, "hen"), (7, "hen"), (15, "hen"), (22, "hen")]),
        ("none", "hen", [(0, "hen")]),
        ("none", None, []),
        ("dog bark: <1.04>-<2.08>; hen: <3.04>-<4.00>", None,
         [(10, "dog bark"), (17, "dog bark"), (30, "hen"), (37, "hen")]),
        (r"a\: b\; c: <1.04>-<2.08>", None, [(11, "a: b; c"), (18, "a: b; c")]),
    ],
)  # fmt: skip
def test_the_label_of_every_time_of_an_answer(answer, event_label, expected):
    assert label_positions(answer, event_label) == expected
