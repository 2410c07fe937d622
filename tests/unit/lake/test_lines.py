"""Lines of files: what is tolerated, and what is refused with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fhir_gateway.errors import InputError
from fhir_gateway.lake import lines as lines_module
from fhir_gateway.lake.lines import read_blocks
from fhir_gateway.sources.models import StagedFile


def read(path: Path) -> list[tuple[int, bytes]]:
    file = StagedFile(path, "shown.ndjson")
    found = []
    for block in read_blocks(file):
        assert block.text.endswith(b"\n")
        lines = enumerate(block.text[:-1].split(b"\n"), block.number)
        found += [(number, line.strip()) for number, line in lines if line.strip()]
    return found


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"{}\n[]\n", [(1, b"{}"), (2, b"[]")]),
        (b"{}\r\n[]", [(1, b"{}"), (2, b"[]")]),
        (b"\xef\xbb\xbf{}\n \n\n [] \n", [(1, b"{}"), (4, b"[]")]),
    ],
)
def test_tolerated_forms(tmp_path: Path, content: bytes, expected: list[tuple[int, bytes]], zipped: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert read(path) == expected


@pytest.mark.parametrize("zipped", [False, True])
def test_numbers_hold_over_blocks_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.setattr(lines_module, "_READ_BYTES", 37)
    monkeypatch.setattr(lines_module, "_READ_GZIP_BYTES", 11)
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 64)
    texts = [b"x" * (i * 7 % 200) for i in range(300)]
    path = tmp_path / "f"
    content = b"\n".join(texts)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert read(path) == [(i, text) for i, text in enumerate(texts, 1) if text]


def test_gzip_of_several_members_with_padding(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(b"1\n2\n") + gzip.compress(b"3\n") + b"\0" * 512)
    assert read(path) == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_a_truncated_gzip_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 1000)
    path = tmp_path / "f"
    path.write_bytes(gzip.compress(b"".join(b"%d %d\n" % (i, i * i * i) for i in range(50_000)))[:-20_000])
    with pytest.raises(InputError, match=r"shown\.ndjson:[1-9][0-9]+ \[truncated\]: the gzip file is truncated"):
        read(path)


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(b"a line\n" * 1000))
    content[-6] ^= 0xFF  # the checksum
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent")
