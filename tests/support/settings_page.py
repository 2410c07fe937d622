"""The table of ``docs/operate/settings.md``: ``python -m tests.support.settings_page`` writes it anew."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from fhir_gateway.config import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "settings.md"
BEGIN, END = "<!-- settings: generated -->\n", "<!-- settings: end -->\n"


def settings_table() -> str:
    """One row per setting: environment variable, default, description."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        secret = " Secret." if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ())) else ""
        rows.append(f"| `FHIR_GATEWAY_{name.upper()}` | {default} | {field.description}{secret} |")
    return "\n".join(rows) + "\n"


def page_with_table(page: str) -> str:
    """The page with its table as the code has it now."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + settings_table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
