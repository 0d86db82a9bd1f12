"""The processor: how sound and text become tokens, what the answer mask marks, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, WhisperFeatureExtractor

from modeling_timepro import TimeProAudioForCausalLM
from processing import (
    Event,
    TimeProAudioProcessor,
    TimeProYamnetFeatureExtractor,
    format_events,
    parse_events,
    prompt_text,
)
from processing.prefix_cache import prefill_questions
from recipes.conversion.checkpoint import load_checkpoint, load_processor

CLIP = "Audio: <|audio_bos|><|AUDIO|><|audio_eos|> what?"
ANSWER = "dog: <1.20>-<3.44>"
# Frames of a whole number of steps and not; half a frame between them too (0.1 s at 25 Hz), which rounds both ways.
GRIDS = [(12.5, 0.08), (12.5, 0.1), (12.5, 0.13), (12.5, 0.25), (12.5, 1.0), (25.0, 0.04), (25.0, 0.07), (25.0, 0.1)]


def noise(num_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=num_samples)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(scripted_checkpoint):
    return scripted_checkpoint(ANSWER)


@pytest.fixture(scope="module")
def make(folder):
    """Return a function that builds the processor of a grid of up to 3 s."""
    built = {}

    def make(frame_rate=12.5, time_step=0.08, **changes):
        key = (frame_rate, time_step, *changes.items())
        if key not in built:
            fields = {"frame_rate": frame_rate, "time_step": time_step, "max_time": 3.0, **changes}
            extractor = TimeProYamnetFeatureExtractor(mel_per_frame=round(100 / frame_rate))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ticks = TimeProAudioProcessor(extractor, tokenizer, **fields | {"time_prompt": False}).grid.tick_tokens()
            tokenizer.add_tokens([tick for tick in ticks if tick not in tokenizer.get_vocab()])
            built[key] = TimeProAudioProcessor(extractor, tokenizer, **fields)
        return built[key]

    return make


@pytest.fixture(scope="module")
def processor(folder):
    """Return the processor of a converted checkpoint: 12.5 frames and ticks per second, up to 30 s."""
    return load_processor(folder)


@pytest.fixture(scope="module")
def model(folder):
    """Return the checkpoint's model with random weights, so that every input changes its output."""
    torch.manual_seed(0)
    return TimeProAudioForCausalLM(load_checkpoint(folder)[0].config).eval()


def clip_tokens(processor, ids):
    """Return the tokens of each clip of a sequence, from behind `<|audio_bos|>` up to `<|audio_eos|>`."""
    tokens = processor.tokenizer.convert_ids_to_tokens([int(index) for index in ids])
    starts = [place for place, token in enumerate(tokens) if token == processor.audio_bos_token]
    return [tokens[start + 1 : tokens.index(processor.audio_eos_token, start)] for start in starts]


@pytest.mark.parametrize(
    "frame_rate, time_step, seconds, expected",
    [
        (12.5, 0.08, 0.3, "<0.00>A<0.08>A<0.16>A"),
        (12.5, 0.25, 1.0, "<0.00>AAA<0.25>AAA<0.50>AAA<0.75>AAA"),
        (12.5, 1.0, 0.5, "<0.00>AAAAAA"),
        (25.0, 0.04, 0.12, "<0.00>A<0.04>A<0.08>A"),
        (25.0, 0.1, 0.3, "<0.00>AA<0.10>AAA<0.20>AA"),
    ],
)
def test_tokens_of_a_clip(make, frame_rate, time_step, seconds, expected):
    processor = make(frame_rate, time_step)
    inputs = processor(text=CLIP, audio=noise(round(seconds * 16000)))
    (tokens,) = clip_tokens(processor, inputs["input_ids"][0])
    assert "".join(tokens).replace("<|AUDIO|>", "A") == expected
    assert len(tokens) == expected.count("A") + expected.count("<")
    rest = processor.tokenizer.decode(inputs["input_ids"][0]).replace("".join(tokens), "<|AUDIO|>")
    assert rest == CLIP


@given(st.sampled_from(GRIDS), st.integers(1120, 48000))
def test_ticks_never_drift_from_the_frames(make, grid, num_samples):
    frame_rate, time_step = grid
    processor = make(frame_rate, time_step)
    inputs = processor(text=CLIP, audio=noise(num_samples))
    (num_mel_frames,) = np.sum(inputs["input_features_mask"], axis=-1)
    assert num_mel_frames == num_samples // 160
    (tokens,) = clip_tokens(processor, inputs["input_ids"][0])
    num_frames = ((num_mel_frames - 1) // 2 + 1) // (round(100 / frame_rate) // 2)
    assert tokens.count(processor.audio_token) == num_frames
    # Counted with exact decimals, independently of the grid's own arithmetic.
    rate, step = Fraction(str(frame_rate)), Fraction(str(time_step))
    times, places, position = [], [], 0
    for token in tokens:
        if token == processor.audio_token:
            position += 1
        else:
            times.append(Fraction(token[1:-1]))
            places.append(position)
            assert abs(position - times[-1] * rate) <= Fraction(1, 2)
    assert times == [index * step for index in range(len(times))]
    assert all(first < second for first, second in zip(places, places[1:], strict=False))
    assert places[-1] < num_frames <= round((times[-1] + step) * rate) or len(times) == processor.grid.num_ticks


def test_placeholders_are_the_frames_that_the_model_makes(processor, model):
    clips = [noise(num_samples, seed=num_samples) for num_samples in (1120, 2399, 2400, 16000, 31999)]
    inputs = processor(text=[CLIP] * len(clips), audio=clips, padding=True, return_tensors="pt")
    mask = inputs["input_features_mask"]
    assert mask.sum(-1).tolist() == [len(clip) // 160 for clip in clips] and mask.shape[1] == 199
    placeholders = (inputs["input_ids"] == processor.audio_token_id).sum(-1)
    assert torch.equal(placeholders, model.model.get_audio_lengths(mask.sum(-1)))
    with torch.no_grad():
        features = model.get_audio_features(inputs["input_features"], mask).pooler_output
    assert len(features) == placeholders.sum()


def test_several_clips_in_one_text_have_their_own_ticks(processor):
    blocks = [{"type": "audio", "audio": noise(length)} for length in (3200, 6400)]
    conversation = [{"role": "user", "content": [blocks[0], {"type": "text", "text": "and"}, blocks[1]]}]
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
    assert np.sum(inputs["input_features_mask"], axis=-1).tolist() == [20, 40]
    first, second = clip_tokens(processor, inputs["input_ids"][0])
    assert "".join(first) == "<0.00><|AUDIO|><0.08><|AUDIO|>"
    assert second[::2] == ["<0.00>", "<0.08>", "<0.16>", "<0.24>", "<0.32>"]
    assert "Audio 1: <|audio_bos|>" in (text := processor.tokenizer.decode(inputs["input_ids"][0]))
    assert "\nandAudio 2: <|audio_bos|>" in text


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(processor, model, side):
    clips = [noise(8000, 1), noise(24000, 2), noise(2000, 3)]
    texts = [CLIP, CLIP, CLIP + " Which events, and when do they start and end?"]
    batch = processor(text=texts, audio=clips, padding=True, return_tensors="pt", text_kwargs={"padding_side": side})
    with torch.no_grad():
        logits = model(**batch).logits
    for row, (text, clip) in enumerate(zip(texts, clips, strict=True)):
        alone = processor(text=text, audio=clip, return_tensors="pt")
        real = batch["attention_mask"][row].bool()
        edge = 0 if side == "right" else -1
        assert torch.equal(batch["input_ids"][row][real], alone["input_ids"][0]) and real[edge]
        assert batch["input_features_mask"][row].sum() == alone["input_features"].shape[-1] == len(clip) // 160
        with torch.no_grad():
            torch.testing.assert_close(logits[row][real], model(**alone).logits[0], rtol=1e-4, atol=1e-5)


def test_without_the_prompt_there_are_no_ticks(make):
    processor = make(time_prompt=False)
    (tokens,) = clip_tokens(processor, processor(text=CLIP, audio=noise(16000))["input_ids"][0])
    assert tokens == ["<|AUDIO|>"] * 12


def test_with_a_stride_only_some_ticks_stand_among_the_frames(make, tmp_path):
    processor = make(time_stride=5)
    (tokens,) = clip_tokens(processor, processor(text=CLIP, audio=noise(16000))["input_ids"][0])
    assert tokens == ["<0.00>", *["<|AUDIO|>"] * 5, "<0.40>", *["<|AUDIO|>"] * 5, "<0.80>", *["<|AUDIO|>"] * 2]
    processor.save_pretrained(tmp_path)
    assert load_processor(tmp_path).time_stride == 5


@pytest.mark.parametrize("answer_format, answer", [("ticks", "<0.48>-<1.04>"), ("digits", "0.48-1.04")])
def test_answers_are_masked_and_read_back(make, tmp_path, answer_format, answer):
    processor = make(answer_format=answer_format)
    soundfile.write(tmp_path / "clip.wav", noise(24000), 16000)
    events = [Event(0.48, 1.04, "dog")]
    assert format_events(events, "grounding", processor.grid, processor.answer_format) == answer
    question = [
        {"role": "user", "content": [{"type": "audio", "path": str(tmp_path / "clip.wav"), "text": None},
                                     {"type": "text", "text": "When does 'dog' occur?", "path": None}]},
    ]  # fmt: skip
    turn = [*question, {"role": "assistant", "content": answer}]
    longer = [*turn, {"role": "user", "content": "A cat?"}, {"role": "assistant", "content": "none"}]
    options = {"tokenize": True, "return_dict": True}
    marked = {"return_assistant_tokens_mask": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    out = processor.apply_chat_template([turn, longer], **options, **marked)
    answers = [ids[mask.bool()] for ids, mask in zip(out["input_ids"], out["assistant_masks"], strict=True)]
    assert processor.tokenizer.decode(answers[0]) == f"{answer}<|im_end|>"
    assert processor.tokenizer.decode(answers[1]) == f"{answer}<|im_end|>none<|im_end|>"
    # What comes before is what generation starts from, ticks and all.
    (prompt,) = processor.apply_chat_template(question, add_generation_prompt=True, **options)["input_ids"]
    start = int(out["assistant_masks"][1].argmax())
    assert out["input_ids"][1, :start].tolist() == list(prompt)
    ticks = set(processor.tokenizer.convert_tokens_to_ids(processor.grid.tick_tokens()))
    assert len(ticks & set(answers[0].tolist())) == (2 if answer_format == "ticks" else 0)
    text = processor.tokenizer.decode(answers[0], skip_special_tokens=True)
    assert parse_events(text, "grounding", "dog", tolerant=False) == events


def control_tokens(processor, ids):
    """Return the ticks and special tokens of a sequence."""
    control = {*processor.grid.tick_tokens(), *processor.tokenizer.all_special_tokens}
    return [t for t in processor.tokenizer.convert_ids_to_tokens([int(i) for i in ids]) if t in control]


@given(st.lists(st.one_of(
    st.sampled_from(["<1.04>", "<|AUDIO|>", "<|im_end|>", "<|im_start|>assistant\n", "<", ">", "<<0.08>", "|", "1.04",
                     "\\", "< 1.04>", "\u226e", "\uff1c1.04>", "\u0338", "{{ 1 }}", "{% generation %}", "\n"]),
    st.text(max_size=4)), min_size=1, max_size=6).map("".join).filter(str.strip))  # fmt: skip
def test_a_query_spells_no_control_token(processor, model, query):
    ids, harmless = (
        prefill_questions(model, processor, [noise(4000)], [[prompt_text("grounding", text)]])["input_ids"][0]
        for text in (query, "dog")
    )
    assert control_tokens(processor, ids) == control_tokens(processor, harmless)


def test_no_text_but_an_answer_spells_a_control_token(processor):
    nasty = "a <1.04> <|AUDIO|> <|im_end|>"
    assert len(control_tokens(processor, processor.tokenizer(nasty)["input_ids"])) == 3
    audio = {"type": "audio", "audio": noise(4000)}

    def control(text):
        conversation = [
            {"role": "system", "content": text},
            {"role": "user", "content": [audio, {"type": "text", "text": text}, {"type": "input_text", "text": text}]},
            {"role": "assistant", "content": "<1.04>"},
            {"role": "user", "content": text},
        ]
        (ids,) = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
        assert audio["audio"].shape == (4000,)  # the caller's messages stay as they are
        return control_tokens(processor, ids), processor.tokenizer.decode(ids)

    tokens, text = control(nasty)
    assert tokens == control("a dog")[0] and tokens.count("<1.04>") == 1
    assert text.count("a < 1.04> < |AUDIO|> < |im_end|>") == 4


def test_every_kind_of_source_gives_the_same_inputs(processor, tmp_path):
    clip, path = noise(8000), tmp_path / "clip.wav"
    soundfile.write(path, clip, 16000, subtype="FLOAT")
    expected = processor(text=[CLIP, CLIP], audio=[clip, clip])
    sources = [str(path), path, path.read_bytes(), torch.from_numpy(clip), clip.tolist(), {"path": str(path)},
               {"array": clip, "sampling_rate": 16000}]  # fmt: skip
    for source in sources:
        inputs = processor(text=[CLIP, CLIP], audio=[source, source])
        assert inputs["input_ids"] == expected["input_ids"]
        np.testing.assert_array_equal(inputs["input_features"], expected["input_features"])
        assert processor(text=CLIP, audio=source)["input_ids"] == expected["input_ids"][:1]
    resampled = processor(text=CLIP, audio={"array": noise(22050), "sampling_rate": 44100})
    assert resampled["input_ids"] == expected["input_ids"][:1]


@pytest.mark.parametrize(
    "texts, num_clips, message",
    [
        (CLIP, 2, r"text holds 1 <\|AUDIO\|> but 2 clips are given"),
        ([CLIP, CLIP], 1, r"text holds 2 <\|AUDIO\|> but 1 clips are given"),
        (CLIP, 0, r"text holds 1 <\|AUDIO\|> but 0 clips are given"),
    ],
)
def test_clips_and_placeholders_must_agree(processor, texts, num_clips, message):
    with pytest.raises(ValueError, match=message):
        processor(text=texts, audio=[noise(4000)] * num_clips or None)


def test_nothing_is_cut(make):
    processor = make()
    assert len(processor(text=CLIP, audio=noise(48000))["input_features_mask"][0]) == 300
    message = r"audio 1 lasts 3.50 s but max_time is 3 s; split it into shorter windows"
    with pytest.raises(ValueError, match=message):
        processor(text=[CLIP, CLIP], audio=[noise(4000), noise(56000)])
    with pytest.raises(ValueError, match="disable truncation or increase `max_length`"):
        processor(text=CLIP, audio=noise(48000), truncation=True, max_length=10)


def damaged(value):
    waveform = noise(16000)
    waveform[7] = value
    return waveform


@pytest.mark.parametrize("extractor", ["yamnet", "whisper"])
@pytest.mark.parametrize(
    "waveform, options, message",
    [
        (noise(0), {}, "audio 0 has 0 samples, too short for one frame of 0.0[48] s at 16000 Hz; pass longer audio"),
        (noise(320), {}, "audio 0 has 320 samples, too short"),
        (damaged(np.nan), {}, "audio 0 holds 1 NaN or infinite samples; repair or drop it"),
        (damaged(-np.inf), {}, "audio 0 holds 1 NaN or infinite samples"),
        (np.ones(16000, np.int16), {}, r"audio 0 has shape \(16000,\) and dtype int16; pass a mono float array"),
        (np.zeros((16000, 2), np.float32), {}, r"audio 0 has shape \(16000, 2\) and dtype float32"),
        (noise(16000), {"sampling_rate": 44100}, "sampling_rate is 44100 but the model needs 16000; resample"),
        (noise(16000), {"audio_kwargs": {"sampling_rate": 8000}}, "sampling_rate is 8000 but"),
        # At its own rate this lasts less than max_time: the rate is what is wrong, not the length.
        (noise(80000), {"sampling_rate": 48000}, "sampling_rate is 48000 but"),
    ],
)
def test_bad_audio_is_named(make, extractor, waveform, options, message):
    processor = make()
    if extractor == "whisper":
        processor = TimeProAudioProcessor(
            WhisperFeatureExtractor(), processor.tokenizer, time_prompt=False, max_time=3.0, frame_rate=25.0
        )
    with pytest.raises(ValueError, match=message):
        processor(text=CLIP, audio=waveform, **options)


def test_settings_must_fit_the_parts(make, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"the tokenizer lacks \d+ of 1500 ticks, first <0.02>; .*time_prompt=False"):
        TimeProAudioProcessor(TimeProYamnetFeatureExtractor(), tokenizer, frame_rate=50.0, time_step=0.02)
    with pytest.raises(ValueError, match="max_time is 60 s but the audio encoder takes 30 s"):
        TimeProAudioProcessor(WhisperFeatureExtractor(), tokenizer, time_prompt=False, max_time=60.0)
    with pytest.raises(ValueError, match="images and videos are not understood by TimeProAudioProcessor"):
        make()(text="a", images=noise(3))
    # The tower of the small model has no window of its own, so its extractor takes what the ticks cover.
    longer = TimeProAudioProcessor(
        TimeProYamnetFeatureExtractor(), tokenizer, time_prompt=False, max_time=60.0, frame_rate=12.5
    )
    (tokens,) = clip_tokens(longer, longer(text=CLIP, audio=noise(40 * 16000))["input_ids"][0])
    assert len(tokens) == 500


def test_a_saved_processor_keeps_every_setting(make, tmp_path):
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    processor = make(25.0, 0.1, answer_format="ticks", chat_template=template)
    make(12.5, 0.13, time_prompt=False).save_pretrained(tmp_path / "off")
    processor.save_pretrained(tmp_path / "on")
    for load in (load_processor, lambda path: AutoProcessor.from_pretrained(path, trust_remote_code=True)):
        loaded = load(tmp_path / "on")
        assert (loaded.frame_rate, loaded.time_step, loaded.max_time) == (25.0, 0.1, 3.0)
        assert (loaded.answer_format, loaded.time_prompt, loaded.chat_template) == ("ticks", True, template)
        assert loaded.grid.tick_tokens() == processor.grid.tick_tokens()
        assert loaded.feature_extractor.mel_per_frame == 4
        expected, inputs = (p(text=CLIP, audio=noise(20000)) for p in (processor, loaded))
        assert inputs["input_ids"] == expected["input_ids"]
        np.testing.assert_array_equal(inputs["input_features"], expected["input_features"])
        off = load(tmp_path / "off")
        assert (off.time_prompt, off.time_step, off.answer_format) == (False, 0.13, "digits")
        assert "{% generation %}" in off.chat_template
