"""The small language model: its tokenizer, the synthetic text, and training that can be resumed."""

import itertools
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from processing.answer_text import parse_events
from recipes.small import language_model as small_language
from recipes.small.language_model import (
    SPECIAL_TOKENS,
    language_config,
    packed_batches,
    scheduled_rate,
    train,
    train_tokenizer,
)
from recipes.small.synthetic_text import LABELS, comparison, documents, duration_arithmetic, timeline

SMALL = {"batch_size": 2, "sequence_length": 64, "vocab_size": 400, "num_documents": 200}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(num_documents=6000)


@pytest.fixture
def tiny_language(monkeypatch):
    """Train at a hundredth of the size."""

    def tiny_config(vocab_size, tokenizer=None):
        config = language_config(vocab_size, tokenizer)
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 48, 1
        config.num_attention_heads, config.num_key_value_heads, config.layer_types = 2, 1, ["full_attention"]
        return config

    monkeypatch.setattr(small_language, "language_config", tiny_config)


def test_every_text_survives_the_tokenizer(tokenizer):
    texts = [*itertools.islice(documents(3), 200), "Ünïcode 犬 \t and\r\n\nlines  ", "1234.5"]
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_stand_alone_and_special_tokens_are_whole(tokenizer):
    assert tokenizer.tokenize("12.40") == ["1", "2", ".", "4", "0"]
    assert len(tokenizer) == small_language.VOCAB_SIZE
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert sorted(set(ids)) == sorted(ids) and max(ids) == len(tokenizer) - 1
    for token, index in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tokenizer(f"a{token}b")["input_ids"].count(index) == 1
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_unicode_is_composed(tokenizer):
    assert tokenizer("e\u0301")["input_ids"] == tokenizer("\u00e9")["input_ids"]


def test_tokenizer_loads_from_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>dog bark: 1.24-3.40<|im_end|>"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert len(loaded) == len(tokenizer) and loaded.eos_token_id == tokenizer.eos_token_id


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size=100"):
        train_tokenizer(vocab_size=100)


def test_documents_are_seeded():
    first, again, other = (list(itertools.islice(documents(seed), 50)) for seed in (1, 1, 2))
    assert first == again and first != other


def test_answers_follow_the_grammar():
    answers = 0
    for text in itertools.islice(documents(7), 400):
        match = re.search(r"<\|im_start\|>assistant\n(.*)<\|im_end\|>\n\Z", text, re.DOTALL)
        if not match:
            continue
        task = "detection"
        if re.match(r"<?[0-9]", match[1]):
            task = "captioning" if ": " in match[1] else "grounding"
        events = parse_events(match[1], task, tolerant=False)
        assert events is not None, text
        assert all(event.event_label in LABELS for event in events if task == "detection")
        answers += 1
    assert answers > 100


def test_what_is_said_about_numbers_is_true():
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = comparison(rng)
        numbers = [float(n) for n in re.findall(r"\d+\.\d+", text)]
        if "after" in text:
            assert numbers[0] > numbers[1]
        elif "before" in text:
            assert numbers[0] < numbers[1]
        elif "between" in text:
            assert numbers[1] < numbers[0] < numbers[2]
        elif text.startswith("Sort"):
            assert sorted(numbers[:3]) == numbers[3:]
        elif "latest" in text:
            assert numbers[3] == max(numbers[:3]) and numbers[4] == min(numbers[:3])
        text = duration_arithmetic(rng)
        numbers = [float(n) for n in re.findall(r"\d+\.\d+", text)]
        if " + " in text:
            assert numbers[0] + numbers[1] == pytest.approx(numbers[2])
        elif " - " in text:
            assert numbers[0] - numbers[1] == pytest.approx(numbers[2])


def test_timelines_agree_with_their_answers():
    rng = np.random.default_rng(1)
    checked = 0
    for _ in range(200):
        text = timeline(rng)
        answer = re.search(r"assistant\n(.*)<\|im_end\|>\n\Z", text)[1]
        events = parse_events(answer, "detection", tolerant=False)
        if "detect" not in text.split("assistant\n")[0] or not events:
            continue
        marks = re.search(r"user\n(.*)\n", text)[1]
        for start, sounds in re.findall(r"(\d+\.\d\d) ([^0-9]+)", marks):
            sounding = {event.event_label for event in events if event.onset <= float(start) < event.offset}
            assert sounding == {sound.strip() for sound in sounds.split("+")} - {"-"}
            checked += 1
    assert checked > 20


def test_batches_are_packed_texts(tokenizer):
    batches = packed_batches(tokenizer, 4, 64, seed=5)
    joined = torch.cat([next(batches)[0].flatten() for _ in range(3)])
    assert joined.shape == (3 * 4 * 64,)
    expected = list(itertools.islice(documents(5), 3))
    assert tokenizer.decode(joined).startswith("<|endoftext|>".join(expected) + "<|endoftext|>")


def test_only_the_answers_of_chats_are_learnt(tokenizer):
    ids, labels = next(packed_batches(tokenizer, 16, 256, seed=5))
    assert torch.equal(labels[labels != -100], ids[labels != -100])
    learnt = tokenizer.decode(labels[labels != -100])
    assert "user" not in learnt and "system" not in learnt
    chats = [text for text in itertools.islice(documents(5), 10) if "<|im_start|>" in text]
    assert chats
    for text in chats:
        assert text.rsplit("<|im_start|>", 1)[1] in learnt


def test_learning_rate_warms_up_and_decays():
    rates = [scheduled_rate(step, 200, 1.0) for step in range(201)]
    assert rates[0] < 0.05 and max(rates) == 1.0 and rates[29] == 1.0
    assert rates[30:] == sorted(rates[30:], reverse=True) and rates[-1] == pytest.approx(0.05)


def test_training_lowers_the_loss_and_saves_a_folder(tiny_language, tmp_path):
    losses = train(tmp_path, num_steps=40, learning_rate=1e-2, bf16=False, **SMALL)
    assert len(losses) == 40 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.vocab_size == len(tokenizer) == 400
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert not (tmp_path / "resume.safetensors").exists()
    ids = tokenizer("a dog barks", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_stopped_training_goes_on_where_it_was(tiny_language, tmp_path, monkeypatch):
    def interrupted_save(folder, model, optimizer, step):
        saved(folder, model, optimizer, step)
        raise KeyboardInterrupt

    saved = small_language.save_progress
    monkeypatch.setattr(small_language, "save_progress", interrupted_save)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, num_steps=34, learning_rate=1e-2, save_every=30, bf16=False, **SMALL)
    monkeypatch.setattr(small_language, "save_progress", saved)
    losses = train(tmp_path, num_steps=34, learning_rate=1e-2, save_every=100, bf16=False, **SMALL)
    assert len(losses) == 4
    assert losses[0] < np.log(400) - 0.5
    assert (tmp_path / "model.safetensors").is_file()


def test_full_size():
    from transformers import Qwen2ForCausalLM

    with torch.device("meta"):
        model = Qwen2ForCausalLM(language_config(1024))
    assert 4_000_000 < model.num_parameters() < 5_500_000
    assert not model.config.tie_word_embeddings
