"""Documents, their order, their split, their fingerprint, and what is said about a corpus that cannot be read."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from scae.config import ConfigError, HubData, StdlibData, TextData
from scae.data import corpus_fingerprint, documents, is_heldout

WINDOWS: dict[str, Any] = {
    "context": 16,
    "packing": "packed",
    "prepend_bos": "auto",
    "separator": "eos",
    "attend_across": True,
    "heldout": 0.1,
    "max_tokens": None,
    "exclude_tokens": [],
    "skip_first": 0,
}
STDLIB = StdlibData(kind="stdlib", **WINDOWS)


def text_data(path: Any, field: str = "text") -> TextData:
    return TextData(kind="text", path=path if isinstance(path, list) else str(path), field=field, **WINDOWS)


def test_reading_the_corpus_loads_neither_torch_nor_datasets() -> None:
    script = (
        "import sys, scae.data.corpus; from scae.data import documents; print({'torch', 'datasets'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_stdlib_is_many_documents_in_a_fixed_order_without_tests() -> None:
    texts = list(documents(STDLIB))
    assert len(texts) > 200
    assert texts == list(documents(STDLIB))
    assert not any("class TestCase(unittest" in text for text in texts)
    assert any("class HTTPConnection" in text for text in texts)


def test_stdlib_fingerprint_is_fast() -> None:
    start = time.perf_counter()
    assert corpus_fingerprint(STDLIB) == corpus_fingerprint(STDLIB)
    assert time.perf_counter() - start < 2


def test_txt_jsonl_parquet_folder_list_and_glob(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufefffirst", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "second"}\n\n{"text": "  "}\n{"text": null}\n{"text": "third"}\n')
    write_table(pyarrow.table({"text": ["fourth", None, "fifth"], "n": [1, 2, 3]}), tmp_path / "c.parquet")
    (tmp_path / "d.md").write_text("not read")
    (tmp_path / "e.txt").write_text("")
    everything = ["first", "second", "third", "fourth", "fifth"]
    assert list(documents(text_data(tmp_path))) == everything
    assert list(documents(text_data(tmp_path / "*"))) == everything
    assert list(documents(text_data([str(tmp_path / "c.parquet"), str(tmp_path / "a.*")]))) == [
        "first",
        "fourth",
        "fifth",
    ]


def test_a_long_txt_file_is_many_documents_and_loses_nothing(tmp_path: Path) -> None:
    paragraph = " = Heading = \n \n" + "words and words . " * 30 + "\n \n"
    text = paragraph * 200
    (tmp_path / "wiki.txt").write_text(text)
    texts = list(documents(text_data(tmp_path)))
    assert "".join(texts) == text
    assert all(2_000 <= len(part) < 4_000 for part in texts[:-1])
    assert all(part.endswith("\n \n") for part in texts)


def test_a_long_txt_file_without_blank_lines_is_cut_too(tmp_path: Path) -> None:
    text = "one line after the other\n" * 10_000
    (tmp_path / "lines.txt").write_text(text)
    texts = list(documents(text_data(tmp_path)))
    assert "".join(texts) == text
    assert len(texts) > 10


def test_a_short_txt_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("a paragraph\n\n" * 1_000)
    assert len(list(documents(text_data(tmp_path)))) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{"body": "x", "id": 1}\n', ["data.field=text", "a.jsonl, line 2", "body, id"]),
        ("a.jsonl", '{"text": "x"}\n{"text": 3}\n', ["data.field=text", "line 2", "int"]),
        ("a.jsonl", '{"text": "x"\n', ["a.jsonl, line 1", "not JSON"]),
        ("a.jsonl", "[1]\n", ["a.jsonl, line 1", "no JSON object"]),
        ("a.parquet", "no", ["a.parquet", "no parquet file"]),
        ("a.txt", " \n\t\n", ["data.path", "empty corpus"]),
    ],
)
def test_errors_name_the_place(tmp_path: Path, name: str, content: str, said: list[str]) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as error:
        list(documents(text_data(tmp_path / name)))
    assert all(part in str(error.value) for part in said), error.value


def test_parquet_without_the_field_and_text_that_is_not_utf8(tmp_path: Path) -> None:
    write_table(pyarrow.table({"body": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match=r"c\.parquet has no such field; found: body"):
        list(documents(text_data(tmp_path)))
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"a\.txt is not UTF-8"):
        list(documents(text_data(tmp_path / "a.txt")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (r'{"text": "one \ud800 two"}', r"line 2 has '\ud800' there, one half of a surrogate pair"),
        ('{"text": ' + "[" * 100_000, "line 2 is not JSON that can be read"),
        ('{"text": ' + "9" * 5_000 + "}", "line 2 is not JSON that can be read"),
    ],
    ids=["surrogate", "deep", "long number"],
)
def test_a_strange_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a whole pair: \\ud83d\\ude42"}\n' + line + "\n")
    with pytest.raises(ConfigError) as error:
        list(documents(text_data(tmp_path)))
    assert said in str(error.value)
    assert str(tmp_path / "a.jsonl") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_page_of_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"row {number} " * 50 for number in range(3000)]
    write_table(pyarrow.table({"text": texts}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.parquet is damaged after row \d+: "):
        list(documents(text_data(path)))


def test_hub_streams_rows_and_explains_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub: dict[str, Any] = {"config": None, "split": "train", "field": "text", "revision": None, "streaming": True}
    data = HubData(kind="hub", name="someone/some", shuffle_buffer=0, **hub, **WINDOWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter([{"text": "one"}, {"text": " "}, {"body": 1}]))
    rows = documents(data)
    assert next(rows) == "one"
    with pytest.raises(ConfigError, match=r"someone/some, row 2 has no such field; found: body"):
        next(rows)

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ConfigError, match=r"data\.name=someone/some .*no network"):
        list(documents(data))


def test_fingerprint_follows_content_names_and_field_but_not_the_folder(tmp_path: Path) -> None:
    def corpus(folder: str, name: str, text: str) -> TextData:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps({"text": text}))
        return text_data(tmp_path / folder)

    base = corpus_fingerprint(corpus("a", "x.jsonl", "abc"))
    assert corpus_fingerprint(corpus("b", "x.jsonl", "abc")) == base
    assert corpus_fingerprint(corpus("c", "x.jsonl", "abd")) != base
    assert corpus_fingerprint(corpus("d", "y.jsonl", "abc")) != base
    assert corpus_fingerprint(text_data(tmp_path / "a", field="body")) != base


@given(st.floats(0.001, 0.999), st.integers(0, 2_000))
def test_the_split_is_spread_evenly(share: float, count: int) -> None:
    held = sum(is_heldout(index, share) for index in range(count))
    assert abs(held - share * count) <= 1
    assert not is_heldout(0, share)


def test_the_split_of_a_tenth() -> None:
    assert [index for index in range(40) if is_heldout(index, 0.1)] == [9, 19, 29, 39]


def test_a_file_is_read_once_however_many_ways_lead_to_it(tmp_path: Path) -> None:
    """Twice would put it on both sides of the held-out split."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "sub" / "b.txt").write_text("two")
    (tmp_path / "sub" / "again.txt").symlink_to(tmp_path / "a.txt")
    paths = [str(tmp_path), str(tmp_path / "sub" / ".." / "a.txt"), f"{tmp_path}/sub/*.txt"]
    assert list(documents(text_data(paths))) == ["one", "two"]
    assert corpus_fingerprint(text_data(paths)) == corpus_fingerprint(text_data(tmp_path))


def test_the_case_of_an_ending_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "A.TXT").write_text("one")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(documents(text_data("~"))) == list(documents(text_data("~/*.TXT"))) == ["one"]
