"""Documents: the text that everything is trained and evaluated on, in a fixed order, and the split by document.

Imports neither torch nor datasets, so that a bad `data` section is refused at once.
"""

import hashlib
import json
import math
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from scae.config import ConfigError, HubData, StdlibData, TextData, text_files
from scae.config.active import active
from scae.core.failures import some
from scae.core.hub import use_what_is_here_if_unreachable

Data = StdlibData | TextData | HubData

# Tests and generated tables are poor reading; `_sysconfigdata*` differs between machines with the same Python.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_SKIPPED_FILES = "_sysconfigdata"

# A .txt file above this many bytes holds many documents (WikiText, a book): it is cut at the first blank line after
# _BLOCK characters, or at the first line end after _LONGEST_BLOCK where no blank line comes.
_WHOLE_FILE = 50_000
_BLOCK = 2_000
_LONGEST_BLOCK = 20_000

_CHARACTERS_A_TOKEN = 8  # more than any tokenizer makes of running text: what max_tokens may need of a stream
_ORDER = 0  # the seed by which a stream is shuffled: of one dataset there is one text


def documents(data: Data) -> Iterator[str]:
    """The documents of a corpus, one string each, in the same order every time; those without text are left out.

    stdlib: one a source file of Python's standard library, without tests. text: one a `.txt` file of up to 50,000
    bytes (a longer one is cut at blank lines into documents of 2,000 characters or more), one a row of `.jsonl` and
    `.parquet`. hub: one a row, streamed or downloaded first, in the order of the dataset or drawn from a buffer. A
    stream is read by the process that tokenises it, once; the others read its tokens.

    Raises ConfigError where the corpus has no text, or a row lacks `data.field`.
    """
    texts: Iterator[str]
    if isinstance(data, StdlibData):
        texts, source = map(_read_source, _stdlib_files()), "data.kind=stdlib"
    elif isinstance(data, TextData):
        texts, source = _read_files(data), f"data.path={data.path}"
    else:
        texts, source = _read_hub(data), f"data.name={data.name}"
    empty = True
    for text in texts:
        if text.strip():
            empty = False
            yield text
    if empty:
        raise ConfigError(f"{source}: an empty corpus, no document has any text")


def fingerprint(data: Data) -> str:
    """16 hex digits that change when the documents do.

    stdlib: Python's version, the names and sizes of the files. text: names below their common folder, sizes and
    contents. hub: name, config, split and what else decides which rows come (the rows themselves are not looked at); of
    a folder on this machine also names, sizes and contents of its files.
    """
    if isinstance(data, StdlibData):
        root = _stdlib()
        facts: list[Any] = [[str(file.relative_to(root)), file.stat().st_size] for file in _stdlib_files()]
        facts.append(platform.python_version())
    elif isinstance(data, TextData):
        files = [file.resolve() for file in text_files(data.path)]
        root = Path(os.path.commonpath([file.parent for file in files]))
        facts = [[file.relative_to(root).as_posix(), file.stat().st_size, _digest(file)] for file in files]
        facts.append(data.field)
    else:
        facts = [data.name, data.config, data.split, data.field]
        active_keys = active(data)
        facts += [[key, active_keys[key]] for key in ("revision", "streaming", "shuffle_buffer") if key in active_keys]
        folder = Path(data.name)
        if folder.is_dir():
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            facts += [[file.relative_to(folder).as_posix(), file.stat().st_size, _digest(file)] for file in files]
    return hashlib.sha256(json.dumps([data.kind, facts]).encode()).hexdigest()[:16]


def windows_of(data: Data) -> dict[str, Any]:
    """The data section as plain values, for a name: its separator settled, and without the place of the text, which
    `fingerprint` knows by its content."""
    return active(data) | {"separator": data.settled_separator}


def is_heldout(index: int, share: float) -> bool:
    """Whether document `index` (from 0) belongs to the held-out side: evenly spread, floor(n * share) of the first n.

    The first 1 / share - 1 documents are training documents, so a corpus needs about 1 / share documents before the
    held-out side has one; whoever splits checks that both sides have one.
    """
    return math.floor((index + 1) * share) > math.floor(index * share)


def training_documents(data: Data) -> Iterator[str]:
    """The documents that are not held out; of a stream, as many as `data.max_tokens` may need."""
    left = math.inf
    if isinstance(data, HubData) and data.streaming and data.max_tokens is not None:
        left = _CHARACTERS_A_TOKEN * data.max_tokens
    for index, text in enumerate(documents(data)):
        if left <= 0:
            return
        left -= len(text)
        if not is_heldout(index, data.heldout):
            yield text


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _stdlib_files() -> list[Path]:
    root = _stdlib()
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found += [Path(folder, name) for name in names if name.endswith(".py") and not name.startswith(_SKIPPED_FILES)]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _read_source(file: Path) -> str:
    with tokenize.open(file) as stream:  # honours the file's own coding line
        return stream.read()


def _read_files(data: TextData) -> Iterator[str]:
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    for file in text_files(data.path):
        if file.stat().st_size == 0:
            continue
        try:
            yield from readers[file.suffix.lower()](file, data.field)
        except UnicodeDecodeError as error:
            raise ConfigError(f"data.path: {file} is not UTF-8 text: {error}") from None


def _read_txt(file: Path, _field: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as lines:
        if file.stat().st_size <= _WHOLE_FILE:
            yield lines.read()
        else:
            yield from _blocks(lines)


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Cut a long text; the blocks joined are the text again."""
    block: list[str] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= _LONGEST_BLOCK or (size >= _BLOCK and not line.strip()):
            yield "".join(block)
            block, size = [], 0
    yield "".join(block)


def _read_jsonl(file: Path, field: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # also too many digits, too many brackets
                raise ConfigError(f"data.path: {file}, line {number} is not JSON that can be read: {error}") from None
            if not isinstance(row, dict):
                raise ConfigError(f"data.path: {file}, line {number} is no JSON object: {line.strip()[:60]}")
            yield _text_of(row, field, f"{file}, line {number}")


def _read_parquet(file: Path, field: str) -> Iterator[str]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"data.path: {file} is no parquet file: {error}") from None
    with table:
        if field not in table.schema_arrow.names:
            raise _no_field(field, str(file), table.schema_arrow.names)
        row = 0
        try:
            for rows in table.iter_batches(batch_size=1024, columns=[field]):
                for text in rows.column(0).to_pylist():
                    yield _text_of({field: text}, field, f"{file}, row {row}")
                    row += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise ConfigError(f"data.path: {file} is damaged after row {row}: {error}") from None


def _read_hub(data: HubData) -> Iterator[str]:
    use_what_is_here_if_unreachable()
    from datasets import load_dataset  # which reads when it is imported whether it is offline

    try:
        rows: Any = load_dataset(
            data.name, data.config, split=data.split, revision=data.revision, streaming=data.streaming
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.name={data.name} (data.config={data.config}, data.split={data.split}): cannot be loaded: "
            f"{str(error).strip().partition(chr(10))[0]}"
        ) from error
    if data.shuffle_buffer:
        rows = rows if data.streaming else rows.to_iterable_dataset()
        rows = rows.shuffle(seed=_ORDER, buffer_size=data.shuffle_buffer)
    for number, row in enumerate(_unbroken(iter(rows), data.name)):
        yield _text_of(row, data.field, f"data.name={data.name}, row {number}")


def _unbroken(rows: Iterator[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Rows as they arrive; one error where they break off, whatever library between here and the files says so."""
    for number in count():
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"data.name={name}: row {number} cannot be read: {reason}") from error
        yield row


def _text_of(row: dict[str, Any], field: str, where: str) -> str:
    """The text of a row; a null counts as empty."""
    if field not in row:
        raise _no_field(field, where, list(row))
    text = row[field]
    if text is not None and not isinstance(text, str):
        raise ConfigError(f"data.field={field}: {where} has {type(text).__name__} there; needed: text")
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ConfigError(
            f"data.field={field}: {where} has {half} there, one half of a surrogate pair; needed: text that UTF-8 can "
            "say, so remove or replace it"
        ) from None
    return text or ""


def _no_field(field: str, where: str, found: list[str]) -> ConfigError:
    return ConfigError(f"data.field={field}: {where} has no such field; found: {some(found, 10) or 'none'}")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
