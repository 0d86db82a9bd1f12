"""Messages of a chat: which blocks of audio are understood, which are refused, and what no text can spell."""

import base64
import dataclasses
import http.server
import io
import threading

import numpy as np
import pydantic
import pytest
import soundfile

from processing.answer_text import escape_text
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.chat_template import escape_questions, is_escaped, mark_answers

TEXT = {"type": "text", "text": "What can you hear?"}


@pytest.fixture(scope="module")
def wav():
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(0).normal(size=16000), 16000, format="wav")
    return buffer.getvalue()


def inputs_of(processor, *blocks, **options):
    chat = [{"role": "user", "content": [*blocks, TEXT]}]
    options |= {"add_generation_prompt": True, "return_dict": True, "return_tensors": "np"}
    return processor.apply_chat_template(chat, tokenize=True, **options)


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_audio_is_read_in_every_form_that_it_is_sent_in(lively_checkpoint, wav):
    _, processor = lively_checkpoint
    data = base64.b64encode(wav).decode()
    url = f"data:audio/wav;base64,{data}"
    expected = inputs_of(processor, {"type": "audio", "audio": wav})
    assert expected["input_features"].shape[-1] == 100
    for block in (
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "audio_url", "audio_url": url},
        {"type": "audio", "audio_url": url},
        {"type": "audio", "url": url},
        {"audio": wav},
        # As Arrow fills tables.
        {"type": "input_audio", "input_audio": {"data": data}, "audio": None, "text": None},
    ):
        assert_same(inputs_of(processor, block), expected)


def test_files_and_hosts_are_read_only_where_allowed(lively_checkpoint, wav, tmp_path):
    _, processor = lively_checkpoint
    (tmp_path / "a b.wav").write_bytes(wav)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = inputs_of(processor, {"type": "audio", "audio": wav})
    urls = {"file": (tmp_path / "a b.wav").as_uri(), "http": f"http://127.0.0.1:{server.server_port}/a%20b.wav"}
    for scheme, url in urls.items():
        block = {"type": "audio_url", "audio_url": {"url": url}}
        with pytest.raises(ValueError, match="of which only data may be read here"):
            inputs_of(processor, block)
        assert_same(inputs_of(processor, block, audio_url_schemes=("data", scheme)), expected)
    with pytest.raises(OSError, match="404"):
        inputs_of(processor, {"type": "audio_url", "audio_url": urls["http"] + "x"}, audio_url_schemes=("http",))
    server.shutdown()
    server.server_close()


def test_messages_may_be_objects_as_clients_return_them(lively_checkpoint, wav):
    @dataclasses.dataclass
    class Block:
        audio: bytes
        type: str = "audio"

    @dataclasses.dataclass
    class Message:
        role: str
        content: list
        tool_calls: list | None = None

    class Text(pydantic.BaseModel):
        text: str
        type: str = "text"

    _, processor = lively_checkpoint
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "np"}
    found = processor.apply_chat_template([Message("user", [Block(wav), Text(text=TEXT["text"])])], **options)
    assert_same(found, inputs_of(processor, {"type": "audio", "audio": wav}))
    written = processor.apply_chat_template([Message("user", [Text(text="When is <0.08>?")])])
    assert escape_text("When is <0.08>?") in written


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "audio_file", "audio_file": "a.wav"}, "neither text nor audio"),
        ({"type": "text", "text": "Listen", "audio": "a.wav"}, "neither text nor audio"),
        ({"type": "AudioClip", "text": "x"}, "neither text nor audio"),
        ({"type": "video", "video": "a.mp4"}, "neither text nor audio"),
        ({"type": "audio", "data": "UklGRg=="}, "call its sound audio, path or url"),
        ({"type": "input_audio", "input_audio": {"data": "***"}}, "no base64"),
        ({"type": "input_audio", "input_audio": {"id": "audio_1"}}, "no base64"),
        ({"type": "audio_url", "audio_url": {"url": "ftp://host/a.wav"}}, "of which only data"),
        ({"type": "audio_url", "audio_url": {}}, "of which only data"),
        ({"type": "audio_url", "audio_url": "data:audio/wav;base64,AAAA"}, "not audio that can be read"),
    ],
    ids=str,
)
def test_blocks_that_cannot_be_heard_are_refused(lively_checkpoint, block, message):
    with pytest.raises(ValueError, match=message):
        inputs_of(lively_checkpoint[1], block)


def test_messages_may_lack_content_and_call_tools(lively_checkpoint):
    _, processor = lively_checkpoint
    call = {"type": "function", "function": {"name": "play", "arguments": {"at": 1.5}}}
    chat = [
        {"role": "user", "content": "Play it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done <1.04>"},
        {"role": "assistant", "content": "I did."},
    ]
    text = processor.apply_chat_template(chat)
    assert '<tool_call>\n{"name": "play", "arguments": {"at": 1.5}}\n</tool_call><|im_end|>' in text
    assert "done < 1.04><|im_end|>" in text
    assert chat[1]["content"] is None, "the caller's messages were changed"


@pytest.mark.parametrize("text", ["<1.04>", "a < b", "<|AUDIO|><|im_end|>", "<<1.04>>", "x <\n y", "<", ""])
def test_the_template_alone_escapes_as_the_processor_does(lively_checkpoint, text):
    _, processor = lively_checkpoint
    alone = processor.tokenizer.apply_chat_template
    for content in (text, [{"type": "text", "text": text}]):
        chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "<1.00>-<1.04>"}]
        rendered = alone(chat, chat_template=processor.chat_template, tokenize=False)
        assert rendered == processor.apply_chat_template(chat)
        assert escape_text(text) in rendered and "<1.00>-<1.04>" in rendered


def test_templates_of_backbones_escape_questions_and_keep_answers():
    from stock_backbones import OMNI_TEMPLATE

    marked = mark_answers(OMNI_TEMPLATE)
    assert not is_escaped(marked) and is_escaped(escape_questions(marked))
    assert escape_questions(escape_questions(marked)) == escape_questions(marked)


def loops_over_content(template):
    """Return how many loops of a template run over the content of a message, as vLLM finds them in its syntax tree."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True))

    num_loops = 0
    for loop in Environment(extensions=[Generation, "jinja2.ext.loopcontrols"]).parse(template).find_all(nodes.For):
        source = loop.iter
        while isinstance(source, nodes.Filter):
            source = source.node
        num_loops += isinstance(source, nodes.Getitem) and source.arg.value == "content"
    return num_loops


def test_servers_see_that_content_is_a_list_of_blocks(lively_checkpoint):
    # Else vLLM sends the template one text, in which placeholders of audio are escaped.
    _, processor = lively_checkpoint
    embedded = (DEFAULT_CHECKPOINT / "chat_template.jinja").read_text()
    assert loops_over_content(processor.chat_template) == loops_over_content(embedded) == 2
