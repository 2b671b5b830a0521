"""Label sets and mentions as text, for people: `t2ipal labels` and `t2ipal captions explain`."""

from __future__ import annotations

from collections.abc import Sequence

from t2ipal.labels.label_set import LabelSet
from t2ipal.labels.miner import Match
from t2ipal.labels.phrases import Entry


def listing(labels: LabelSet) -> str:
    """Every phrase by the class under which it stands, with its key in the file or how it was derived."""
    by_owner: dict[str, list[Entry]] = {name: [] for name in labels.names}
    for entry in labels.entries():
        by_owner[entry.owner].append(entry)
    lines = []
    for name in labels.names:
        lines.append(_heading(labels, name))
        lines += [f"  {entry.phrase:32s} {_status(entry)}" for entry in sorted(by_owner[name], key=_family)]
    derived = sum(bool(entry.derivation) for entry in labels.entries())
    lines.append(
        f"{len(labels.names)} classes, {len(labels.entries()) - derived} stated phrases, {derived} derived ones"
    )
    return "\n".join(lines)


def explanation(labels: LabelSet, text: str, dropped: Sequence[Match] = ()) -> str:
    """What each phrase of ``text`` means and why, and the labels. ``dropped`` are mentions that a filter refused."""
    lines = [text]
    refused = {(match.start, match.end) for match in dropped}
    for start, end, entry in labels.places(text):
        meaning = _meaning(labels, entry)
        if (start, end) in refused:
            meaning = f"no noun: {meaning}"
        lines.append(f"  {start:3d}-{end:<3d} {text[start:end]:24s} {meaning:24s} {_origin(entry)}")
    kept = [match.label for match in labels.mine(text) if (match.start, match.end) not in refused]
    lines.append(f"labels: {', '.join(name for name in labels.names if name in kept) or 'none'}")
    return "\n".join(lines)


def _meaning(labels: LabelSet, entry: Entry) -> str:
    implied = dict.fromkeys(other for label in entry.labels for other in labels.implied(label))
    so = f" (so {', '.join(implied)})" if implied else ""
    return f"{', '.join(entry.labels)}{so}" if entry.labels else "excluded"


def _heading(labels: LabelSet, name: str) -> str:
    facts = [f"prompt '{labels.prompt_name(name)}'", f"display '{labels.display_name(name)}'"]
    if labels.implied(name):
        facts.append(f"implies {', '.join(labels.implied(name))}")
    return f"{name} ({'; '.join(facts)})"


def _family(entry: Entry) -> tuple[str, bool]:
    return entry.place.partition(".")[0], bool(entry.derivation)


def _status(entry: Entry) -> str:
    key = entry.place.removeprefix(f"classes.{entry.owner}").lstrip(".") or "name"
    meaning = f" ({', '.join(entry.labels)})" if key == "shared" else ""
    return f"derived {key}{meaning}: {entry.derivation}" if entry.derivation else f"stated {key}{meaning}"


def _origin(entry: Entry) -> str:
    shown = f"{entry.place}: {entry.phrase}"
    return f"{shown} ({entry.derivation})" if entry.derivation else shown
