"""One switch for the language of labels: 日本語 and English side by side, or one of them."""

from __future__ import annotations

from .files import UserError

LANGUAGES = ("both", "ja", "en")
_shown = "both"


def switch(language: str) -> None:
    """Show labels in `both`, `ja` or `en` from now on. Raises `UserError` for another word."""
    global _shown
    if language not in LANGUAGES:
        raise UserError(f"LANGUAGE is {language!r}; expected one of {', '.join(LANGUAGES)}.")
    _shown = language


def label(text: str) -> str:
    """What is shown of `text`, "日本語 / English". Text of a user or a model never goes through this."""
    japanese, _, english = text.partition(" / ")
    return {"both": text, "ja": japanese, "en": english or japanese}[_shown]
