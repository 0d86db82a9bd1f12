"""Files whose format their contents do not tell; those that do are in test_load_clips.py."""

import pytest

from recipes.data.formats import guess_format


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is empty; if that is what it should be, name it by data_format"),
        ("hello\n", "fits no known format: its first line is 'hello'"),
        ('{"id": 1, "query": "x", "audio": "a", "events": [], "relevant_windows": []}', "fits lighthouse and jsonl"),
        ('[{"file_name": "a.wav", "caption": "x"}]', "the first item with the keys 'file_name'"),
        ('{\n"a": 1}', "a JSON object, its member 'a' being '1'"),
        ('[{"id": 1', "is not JSON: after 0 whole items"),
    ],
)
def test_a_format_that_cannot_be_told(content, message, tmp_path):
    (tmp_path / "a").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        guess_format(tmp_path / "a")
    assert str(caught.value).startswith(str(tmp_path / "a")) and message in str(caught.value)
