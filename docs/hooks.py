"""Hooks of MkDocs, which change the text of a page before it is rendered."""

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page whose values stay on one line with their errors."""
    return markdown.replace(" ± ", "\u00a0±\u00a0")
