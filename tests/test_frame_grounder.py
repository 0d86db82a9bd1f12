"""The frame grounder: one logit per audio frame for a question, on every backbone, trained, saved and loaded."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_tiny_checkpoint
from memory_conversion import load_backbone
from peft import LoraConfig, get_peft_model
from tiny_backbones import MAKERS, make_stock, save_stock

from modeling_timepro import TimeProAudioConfig, TimeProAudioModel
from modeling_timepro.frame_grounder import TimeProFrameGrounder
from processing.answer_text import parse_events, prompt_text
from processing.events import Event, clip_events
from processing.frame_decoding import frame_events, refined
from processing.pipeline_timepro import TemporalAudioGroundingPipeline
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.data.loading import load_clips
from recipes.small.either_threshold import detection_f1_by_threshold
from recipes.small.grounder import question_states, train_grounder
from recipes.small.label_grounder import fit_label_grounder, question_embeddings
from recipes.training.collator import TimeProCollator
from recipes.training.grounder_loss import FRAME_TARGETS, frame_coverage, grounder_loss, prepare_grounder

TURNS = [
    {"question": "What events?", "answer": "dog bark: <0.48>-<1.04>", "event_label": None},
    {"question": "When is 'dog bark'?", "answer": "<0.48>-<1.04>", "event_label": "dog bark"},
    {"question": "When is 'drum'?", "answer": "none", "event_label": "drum"},
]
FRAME_SETTINGS = ("threshold", "median_filter_s", "min_gap_s", "min_length_s")
NOT_INPUTS = ("labels", FRAME_TARGETS)


@pytest.fixture(scope="module", params=[("encoder", "attention"), ("stem", "labels")], ids="-".join)
def checkpoint(tokenizer_folder, request):
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    frames, match = request.param
    model.add_frame_grounder(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, frames=frames, match=match,
                             labels=["dog bark", "drum", "siren"] if match == "labels" else None)  # fmt: skip
    return model.eval(), processor


def sample(folder, turns, name="0.wav", seconds=2.0, seed=0):
    path = folder / name
    soundfile.write(path, np.random.default_rng(seed).normal(size=int(16000 * seconds)) * 0.1, 16000)
    return {"pieces": [{"audio": str(path), "start": 0.0, "duration": None}], "duration": seconds, "turns": turns}


def logits_of(model, batch):
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name not in NOT_INPUTS}).frame_logits


def test_a_model_has_no_frame_grounder_unless_asked_for(tokenizer_folder):
    model, _ = make_tiny_checkpoint(tokenizer_folder)
    assert model.config.frame_grounder is None and model.frame_grounder is None
    with pytest.raises(ValueError, match="add_frame_grounder"):
        model(
            input_ids=torch.tensor([[1, 2]]),
            question_tokens=torch.tensor([[1]]),
            question_rows=torch.tensor([0]),
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 3}, "hidden_size"),
        ({"decode": "words"}, "text"),
        ({"query_decode": "words"}, "query_decode 'words'"),
        ({"match": "cosine"}, "labels"),
        ({"match": "labels"}, "needs them"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "divide"),
        ({"frames": "stem"}, "only a timepro_yamnet"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"min_gap_s": -1}, "0 or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TimeProFrameGrounder(TimeProAudioConfig(frame_grounder=settings))


def test_questions_that_share_a_prompt_are_scored_as_if_each_stood_alone(checkpoint, tmp_path):
    model, processor = checkpoint
    collator = TimeProCollator(processor, frame_targets=True)
    together = collator([sample(tmp_path, TURNS)])
    assert together["question_rows"].tolist() == [0, 0]
    alone = [logits_of(model, collator([sample(tmp_path, [turn])])) for turn in TURNS[1:]]
    torch.testing.assert_close(logits_of(model, together), torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 2e-5


def test_a_short_clip_is_scored_beside_a_long_one_as_alone(checkpoint, tmp_path):
    model, processor = checkpoint
    collator = TimeProCollator(processor, frame_targets=True)
    short, long = sample(tmp_path, TURNS[1:2], "a.wav", 1.2, 1), sample(tmp_path, TURNS[1:], "b.wav", 3.0, 2)
    both = collator([short, long])
    num_frames = int((both[FRAME_TARGETS][0] >= 0).sum())
    assert num_frames < both[FRAME_TARGETS].shape[1] and both["question_rows"].tolist() == [0, 1, 1]
    alone = logits_of(model, collator([short]))
    torch.testing.assert_close(logits_of(model, both)[:1, :num_frames], alone, rtol=1e-4, atol=1e-5)


def test_targets_are_the_fraction_of_each_frame_in_which_the_answer_sounds(checkpoint, tmp_path):
    _, processor = checkpoint
    targets = TimeProCollator(processor, frame_targets=True)([sample(tmp_path, TURNS)])[FRAME_TARGETS]
    expected = np.zeros(targets.shape[1])
    expected[6:13] = 1
    np.testing.assert_allclose(targets, [expected, 0 * expected], atol=1e-5)
    np.testing.assert_allclose(frame_coverage([(0.1, 0.3)], 5, 10.0), [0, 1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(frame_coverage([(0.15, 0.22)], 4, 10.0), [0, 0.5, 0.2, 0], atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    ["qwen2_audio", *(pytest.param(kind, marks=pytest.mark.slow) for kind in sorted({*MAKERS} - {"qwen2_audio"}))],
)
def test_it_works_on_every_backbone_and_is_saved_with_it(kind, tokenizer_folder, tmp_path):
    stock, processor = make_stock(kind, tokenizer_folder)
    save_stock(stock, processor, tmp_path / "stock")
    torch.manual_seed(0)
    model, processor = load_backbone(tmp_path / "stock")
    prepare_grounder(model, is_alone=True)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"frame_grounder"}
    turns = [turn | {"answer": turn["answer"].replace("<", "").replace(">", "")} for turn in TURNS]
    batch = TimeProCollator(processor, frame_targets=True)([sample(tmp_path, turns)])
    targets, optimizer = batch[FRAME_TARGETS], torch.optim.Adam(model.frame_grounder.parameters(), 1e-2)
    inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    losses = []
    model.eval()  # without dropout the loss falls step by step
    for _ in range(60):
        loss = grounder_loss(model(**inputs).frame_logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    save_checkpoint(model.eval(), processor, tmp_path / "ours")
    loaded, _ = load_checkpoint(tmp_path / "ours")
    torch.testing.assert_close(logits_of(loaded.eval(), batch), logits_of(model, batch))
    assert loaded.config.frame_grounder == model.config.frame_grounder


def test_the_head_changes_nothing_of_the_rest(checkpoint, tmp_path):
    model, processor = checkpoint
    batch = TimeProCollator(processor, frame_targets=True)([sample(tmp_path, TURNS)])
    inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    with torch.no_grad():
        scored = model(**inputs)
        plain = model(**{name: value for name, value in inputs.items() if not name.startswith("question")})
    assert torch.equal(scored.logits, plain.logits) and plain.frame_logits is None and scored.hidden_states is None


def test_who_builds_the_model_without_its_head_is_told_to_leave_it_out():
    """As vLLM does, which refuses all other weights that it has no place for."""
    model, found = TimeProAudioModel.from_pretrained(DEFAULT_CHECKPOINT, output_loading_info=True)
    assert model.config.frame_grounder and not found["missing_keys"] and found["unexpected_keys"] == {"lm_head.weight"}


def test_repeats_stay_apart_and_flicker_does_not_part_an_event():
    scores = np.zeros(100)
    scores[10:20] = scores[25:40] = 0.9
    scores[14] = scores[80] = 0.1
    scores[60:62] = 0.8
    events = frame_events(scores, "dog bark", 10.0, threshold=0.5, min_gap_s=0.3, min_length_s=0.3)
    assert [(e.onset, e.offset) for e in events] == [(1.0, 2.0), (2.5, 4.0)]
    assert events[1].score == pytest.approx(0.9) and events[0].score == pytest.approx(0.82)
    smooth = frame_events(scores, "dog bark", 10.0, threshold=0.5, median_filter_s=0.3)
    assert [(e.onset, e.offset) for e in smooth] == [(1.0, 2.0), (2.5, 4.0), (6.0, 6.2)]
    assert frame_events(np.zeros(0), "dog bark", 10.0) == []


def test_frames_refine_a_written_answer_and_add_what_it_missed():
    scores = np.concatenate([np.zeros(10), np.full(10, 0.9), np.zeros(10), np.full(10, 0.7), np.full(10, 0.1)])
    heard = frame_events(scores, "drum", 10.0)
    events = refined([Event(1.2, 2.3, "drum"), Event(4.0, 5.0, "drum")], heard, scores, 10.0)
    found = [(e.onset, e.offset, round(e.score, 3)) for e in events]
    assert found == [(1.0, 2.0, 0.9), (3.0, 4.0, 0.7), (4.0, 5.0, 0.1)]


LABELS = ["dog bark", "drum", "siren"]


@pytest.fixture(scope="module")
def pipe(checkpoint):
    model, processor = checkpoint
    model, processor = copy.deepcopy(model), copy.deepcopy(processor)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.config.event_labels = LABELS
    return TemporalAudioGroundingPipeline(model=model.eval(), processor=processor)


@pytest.fixture(scope="module")
def waveform():
    return (0.1 * np.random.default_rng(3).normal(size=48000)).astype(np.float32)


def test_frames_answer_all_queries_in_one_pass_as_the_model_scores_them(pipe, waveform, tmp_path):
    results = pipe(waveform, task="grounding", query=["dog bark", "drum"], decode="frames", return_frame_scores=True)
    scores = np.concatenate([result["frame_scores"]["scores"] for result in results])
    turns = [
        {"question": prompt_text("grounding", query), "answer": "none", "event_label": query}
        for query in ("dog bark", "drum")
    ]
    clip = sample(tmp_path, turns)
    soundfile.write(clip["pieces"][0]["audio"], waveform, 16000, subtype="FLOAT")
    batch = TimeProCollator(pipe.processor, frame_targets=True)([clip])
    np.testing.assert_allclose(scores, logits_of(pipe.model, batch).sigmoid(), atol=1e-4)
    for query, result, one in zip(("dog bark", "drum"), results, scores):
        settings = {name: pipe.model.config.frame_grounder[name] for name in FRAME_SETTINGS}
        settings["threshold"] = pipe.model.config.frame_grounder["query_threshold"]
        expected = clip_events(frame_events(one, query, 12.5, **settings), 3.0)
        assert result["events"] == [pytest.approx(event.as_dict(), abs=1e-3) for event in expected]
        assert parse_events(result["text"], "grounding", query) is not None
        assert result["frame_scores"]["onsets"][:3].tolist() == pytest.approx([0.0, 0.08, 0.16])


def test_detection_by_frames_scores_all_labels_of_the_checkpoint(pipe, waveform):
    result = pipe(waveform, decode="frames", return_frame_scores=True)
    assert result["frame_scores"]["labels"] == LABELS and len(result["frame_scores"]["scores"]) == 3
    only = pipe(waveform, decode="frames", event_labels=["drum"], return_frame_scores=True)
    np.testing.assert_allclose(only["frame_scores"]["scores"][0], result["frame_scores"]["scores"][1], atol=1e-5)
    table = pipe.format_frame_scores(result["frame_scores"], 12.5).splitlines()
    assert table[0] == "onset\toffset\tdog bark\tdrum\tsiren"
    assert len(table) == 1 + len(result["frame_scores"]["onsets"])
    assert table[1].startswith("0.000\t0.080\t")


def test_windows_of_a_long_recording_join_without_gap_or_overlap(pipe):
    long = (0.1 * np.random.default_rng(4).normal(size=16000 * 7)).astype(np.float32)
    result = pipe(long, decode="frames", chunk_length_s=2.0, return_frame_scores=True)
    onsets = result["frame_scores"]["onsets"]
    np.testing.assert_allclose(np.diff(onsets), 0.08, atol=1e-6)
    assert onsets[0] == 0 and onsets[-1] > 6.8 and len(result["windows"]) > 1


def test_text_is_the_same_whether_frames_are_scored_or_not(pipe, waveform):
    plain = pipe(waveform, decode="text", max_new_tokens=24)
    scored = pipe(waveform, decode="text", return_frame_scores=True, max_new_tokens=24)
    assert scored.pop("frame_scores")["labels"] == LABELS and scored == plain
    both = pipe(waveform, decode="both", max_new_tokens=24)
    assert both["text"] == plain["text"]


def test_what_frames_cannot_do_is_refused(pipe, waveform, tokenizer_folder):
    with pytest.raises(ValueError, match="decode is 'words'"):
        pipe(waveform, decode="words")
    with pytest.raises(ValueError, match="captioning"):
        pipe(waveform, task="captioning", decode="both")
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    bare = TemporalAudioGroundingPipeline(model=model.eval(), processor=processor)
    with pytest.raises(ValueError, match="no frame grounder"):
        bare(waveform, task="grounding", query="drum", decode="frames")
    model.add_frame_grounder()
    with pytest.raises(ValueError, match="give event_labels"):
        bare(waveform, decode="frames")


def test_it_learns_from_stored_stems_with_questions_that_were_read_before(tokenizer_folder, tmp_path):
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = np.random.default_rng(0)
    stems = rng.normal(size=(6, 25, 2304)).astype(np.float16)
    rows = []
    for index in range(6):
        label = ("dog bark", "drum")[index % 2]
        stems[index, 5:15, index % 2 :: 2] += 2
        events = [{"onset": 0.4, "offset": 1.2, "event_label": label}]
        rows.append({"id": str(index), "duration": 2.0, "events": events, "absent": ["siren"], "stem_index": index})
    np.save(tmp_path / "train_stem.npy", stems)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"batch_size": 4, "num_absent": 2, "split": "train"}
    assert train_grounder(model, processor, tmp_path, 1, **options)[0] == ["dog bark", "drum", "siren"]
    states = question_states(model, processor, tmp_path, "train", ["dog bark", "drum"], num_clips=2)
    assert [len(found) for found in states.values()] == [2, 2]

    def loss():
        with torch.no_grad():
            frames, mask = torch.from_numpy(stems[:2].astype(np.float32)), torch.ones(2, 25, dtype=torch.bool)
            texts = torch.nn.utils.rnn.pad_sequence([states["dog bark"][0], states["drum"][0]], batch_first=True)
            logits = model.frame_grounder(frames, mask, texts, torch.ones(texts.shape[:2], dtype=torch.bool))
        targets = torch.from_numpy(frame_coverage([(0.4, 1.2)], 25, 12.5)).expand(2, 25)
        return grounder_loss(logits, targets).item()

    untrained = loss()
    train_grounder(model, processor, tmp_path, 20, resume=tmp_path / "resume", **options)
    assert loss() < 0.8 * untrained and (tmp_path / "resume").exists() is False
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_one_with_labels_hears_the_label_that_is_asked_for_and_nothing_else(tokenizer_folder):
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    rng, labels, encoder = np.random.default_rng(0), ["dog bark", "drum"], model.eval().model.audio_tower
    size = model.config.audio_config.hidden_size
    frame_map = {"weight": torch.from_numpy(rng.normal(size=(2, size))).float(), "bias": torch.tensor([-1.0, 2.0])}
    fit_label_grounder(model, processor, encoder, frame_map, labels)
    stem = torch.nn.functional.layer_norm(torch.from_numpy(rng.normal(size=(1, 25, 2304))).float(), [2304])
    mask = torch.ones(1, 25, dtype=torch.bool)

    def heard(words):
        question = question_embeddings(model, processor, [words])[0][None]
        return model.frame_grounder(stem, mask, question, torch.ones(1, question.shape[1], dtype=torch.bool))[0]

    with torch.no_grad():
        wanted = encoder(stem_features=stem).last_hidden_state[0] @ frame_map["weight"].T + frame_map["bias"]
        for place, label in enumerate(labels):
            np.testing.assert_allclose(heard(label).sigmoid(), wanted[:, place].sigmoid(), atol=0.2)
        np.testing.assert_allclose(heard("barking").sigmoid(), wanted[:, 0].sigmoid(), atol=0.2)
        assert heard("wind").sigmoid().max() < 0.2


def labelled_pipe(tokenizer_folder, logits, **options):
    """Return the pipeline of a model whose text knows dog barks, and whose frames hear labels with these logits."""
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    frame_map = {"weight": torch.zeros(len(logits), model.config.audio_config.hidden_size)}
    frame_map["bias"] = torch.tensor(list(logits.values()))
    fit_label_grounder(model.eval(), processor, model.model.audio_tower, frame_map, list(logits))
    model.config.event_labels = ["dog bark"]
    return TemporalAudioGroundingPipeline(model=model, processor=processor, **options)


def test_each_label_is_answered_by_whichever_side_was_taught_it(tokenizer_folder, waveform):
    pipe = labelled_pipe(tokenizer_folder, {"dog bark": 2.0, "drum": 2.0, "siren": 2.0})
    asked = {"task": "grounding", "max_new_tokens": 24}
    by = {
        name: pipe(waveform, query=["dog bark", "drumming", "wind"], decode=name, **asked)
        for name in ("text", "frames", "either")
    }
    assert by["either"] == [by["text"][0], by["frames"][1], by["text"][2]]
    assert by["frames"][0]["events"] and by["frames"][1]["events"]
    found = pipe(waveform, decode="either", event_labels=LABELS, max_new_tokens=24, min_score=0)
    alone = {name: pipe(waveform, decode=name, event_labels=LABELS, max_new_tokens=24, min_score=0)
             for name in ("text", "frames")}  # fmt: skip
    parts = [(alone["text"], "dog bark"), (alone["frames"], "drum"), (alone["frames"], "siren")]
    wanted = [event for part, label in parts for event in part["events"] if event["event_label"] == label]
    assert sorted(found["events"], key=str) == sorted(wanted, key=str) and wanted
    limited = pipe(waveform, decode="either", event_labels=LABELS, max_events=1, min_score=0)
    assert len(limited["events"]) == 1 < len(found["events"])
    bare = pipe(waveform, decode="either", event_labels=LABELS, max_new_tokens=24, return_scores=False)
    assert {event.get("score") for event in bare["events"]} == {None}
    pipe.model.config.frame_grounder |= {"labels": None}
    with pytest.raises(ValueError, match="no labels; choose both"):
        pipe(waveform, decode="either")


def test_what_frames_add_to_the_text_is_chosen_by_the_events_that_it_finds(tokenizer_folder, tmp_path):
    pipe = labelled_pipe(tokenizer_folder, {"drum": 2.0, "siren": 0.0}, event_labels=["drum", "siren"])
    path = sample(tmp_path, [])["pieces"][0]["audio"]
    event = {"onset": 0.0, "offset": 2.0, "event_label": "drum"}
    row = {"id": "0", "audio": path, "duration": 2.0, "task": "detection", "events": [event]}
    (tmp_path / "clips.jsonl").write_text(json.dumps(row) + "\n")
    # The probability is up to 0.88 for drum, where it sounds, and up to 0.5 for siren, where there is none.
    scores = detection_f1_by_threshold(pipe, list(load_clips(tmp_path / "clips.jsonl")), (0.3, 0.6, 0.95))
    assert scores[1] > scores[0] > scores[2] == 0


def test_queries_may_be_decoded_otherwise_than_detection(pipe, waveform):
    settings = pipe.model.config.frame_grounder
    settings["query_decode"] = "frames"
    try:
        assert pipe(waveform, task="grounding", query="drum") == pipe(
            waveform, task="grounding", query="drum", decode="frames"
        )
        plain = pipe(waveform, max_new_tokens=24)
        assert plain == pipe(waveform, decode="text", max_new_tokens=24)
    finally:
        settings["query_decode"] = "text"


def test_beside_an_adapter_it_is_trained_in_full_and_stays_when_they_are_merged(checkpoint, tmp_path):
    model, processor = copy.deepcopy(checkpoint[0]), checkpoint[1]
    settings = LoraConfig(target_modules=["q_proj"], r=2)
    prepare_grounder(model, is_alone=False, peft_config=settings)
    adapted = get_peft_model(model, settings)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "frame_grounder" in name for name in trained)
    assert any("frame_grounder" in name for name in trained)
    batch = TimeProCollator(processor, frame_targets=True)([sample(tmp_path, TURNS)])
    inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    grounder_loss(adapted(**inputs).frame_logits, batch[FRAME_TARGETS]).backward()
    optimizer.step()
    before = logits_of(adapted.eval(), batch)
    merged = adapted.merge_and_unload()
    save_checkpoint(merged, processor, tmp_path / "merged")
    loaded, _ = load_checkpoint(tmp_path / "merged")
    torch.testing.assert_close(logits_of(loaded.eval(), batch), before, rtol=1e-4, atol=1e-5)
    assert (before - logits_of(checkpoint[0], batch)).abs().max() > 1e-4
