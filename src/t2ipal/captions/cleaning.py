"""From what a chat model answers to the caption that is in it."""

from __future__ import annotations

import re
import unicodedata

SHORTEST_WORDS = 3
LONGEST_WORDS = 40
LONGEST_CHARACTERS = 240

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_CHAT_TOKEN = re.compile(r"<\|[^|<>]*\|>|</?s>|\[/?INST\]|<(?:end|start)_of_turn>|<eos>|<bos>", re.IGNORECASE)
_SPEAKER = re.compile(r"^\s*(?:system|user|assistant|human|ai|bot)\s*(?::|\n)\s*", re.IGNORECASE)
_MARKER = re.compile(r"^(?:[-*+•·>#~]+|\(?\d{1,2}[.):]|[a-zA-Z][.)])\s+")
_COURTESY = re.compile(r"^(?:sure|certainly|of course|absolutely|okay|ok|great)(?: thing)?[,.:!]\s*", re.IGNORECASE)
_LEAD_IN = re.compile(
    r"^(?:[^:.!?\"]{0,80}\b(?:captions?|sentences?|answers?|descriptions?|responses?|(?:would|could|might|may) be)\b"
    r"[^:.!?\"]{0,60}|(?:photo|image|picture|title|scene|example)(?: \d+)?):\s*",
    re.IGNORECASE,
)
_QUOTATION_MARK = re.compile(r"[“”„«»`]+|\"\"+")
_QUOTED = re.compile(r"^\"([^\"]+)\"(?:[\s.,;!)-].*)?$")
_IN_SINGLE_QUOTES = re.compile(r"^['‘](.*)['’]([.!?]?)$")
_ABBREVIATION = r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)"
_END = re.compile(rf"{_ABBREVIATION}[.!?]+(?=[\"’')*]*(?:\s|$))")
_CLAUSE = re.compile(r"\s*[,;–—]\s*|\s+-\s+")
_HASHTAGS = re.compile(r"(?:\s*#\w+)+\s*$")
_RUBBISH = re.compile(
    r"[\[\]{}<>|\\=_@~^]|https?:|www\.|\bas an ai\b|\blanguage model\b|\b(?:caption|sentence|description)s?\b"
    r"|\bplease provide\b|^i(?:['’]\w+)?\s|:$",
    re.IGNORECASE,
)


def clean(text: str, finished: bool = True) -> str:
    """The caption in an answer: its first sentence without what chats put around it; empty if there is none.

    Left out are thoughts, tokens of chat formats, control characters, emoji, hashtags, list markers, lead-ins
    ("Here is a caption:") and quotation marks. An answer that the limit of tokens cut off in its first sentence
    ends before its last clause. No captions are what the model says about itself or its task, brackets, addresses,
    and texts of fewer than 3 or more than 40 words. (Reconstruction.)
    """
    text = _SPEAKER.sub("", _CHAT_TOKEN.sub("\n", _THOUGHT.sub(" ", text)).lstrip())
    lines = [_line(line) for line in text.splitlines()]
    position = next((index for index, line in enumerate(lines) if line), None)
    if position is None:
        return ""
    line = lines[position]
    end = _END.search(line)
    if end is not None:
        line = line[: end.end()]
    elif not finished and not any(lines[position + 1 :]):
        clauses = list(_CLAUSE.finditer(line))
        line = line[: clauses[-1].start()] if clauses else ""
    line = _unquoted(line.strip("* "))
    fits = SHORTEST_WORDS <= len(line.split()) <= LONGEST_WORDS and len(line) <= LONGEST_CHARACTERS
    return line if fits and not _RUBBISH.search(line) else ""


def _line(text: str) -> str:
    """A line without its markers, lead-in, quotes and hashtags; empty if it only leads to the next."""
    kept = "".join(" " if character.isspace() else character for character in text if _printed(character))
    kept = _QUOTATION_MARK.sub('"', kept.replace("**", ""))
    line = _MARKER.sub("", " ".join(kept.split())).strip("*_ ")
    line = _LEAD_IN.sub("", _COURTESY.sub("", line), count=1).strip()
    quoted = _QUOTED.match(line)
    if quoted and len(quoted[1].split()) >= SHORTEST_WORDS:
        line = quoted[1]
    line = _HASHTAGS.sub("", line).strip()
    return "" if line.endswith(":") else line


def _unquoted(text: str) -> str:
    """Without quotation marks around the whole, or one whose partner is missing."""
    if text.count('"') % 2 or (text.count('"') == 2 and text[0] == text[-1] == '"'):
        text = text.replace('"', "")
    return _IN_SINGLE_QUOTES.sub(r"\1\2", text).strip()


def _printed(character: str) -> bool:
    """Not so are control characters, emoji and what modifies them."""
    category = unicodedata.category(character)
    return character.isspace() or not (category[0] == "C" or category in ("So", "Sk") or character == "\ufe0f")
