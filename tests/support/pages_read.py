"""What a reader finds in a report: the words of a PDF, the cells of a page's tables."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

from pypdf import PdfReader


def pdf_words(content: bytes) -> str:
    """All text of a PDF, with single spaces for any other."""
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages))


def pdf_pages(content: bytes) -> int:
    """How many pages it has."""
    return len(PdfReader(io.BytesIO(content)).pages)


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._caption = ""
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("caption", "th", "td"):
            self._open = tag
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("th", "td"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self.tables.setdefault(self._caption, [])
        if tag == self._open:
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "caption":
            self._caption += data
        elif self._open:
            self.tables[self._caption][-1][-1] += data


def html_tables(content: bytes) -> dict[str, list[list[str]]]:
    """Rows of the tables of a page, heads first, by caption; those of equal captions follow each other."""
    reader = _Tables()
    reader.feed(content.decode())
    return reader.tables
