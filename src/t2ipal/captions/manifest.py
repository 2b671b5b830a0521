"""What is told about a set of captions: counts, agreement, co-occurrence, who stood in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from t2ipal.captions.caption import Caption
from t2ipal.captions.mixture import Mixture


def agreement(captions: Sequence[Caption]) -> float | None:
    """The share of captions that name exactly the classes that they were asked for; None if none was asked."""
    asked = [caption for caption in captions if caption.requested]
    exact = sum(set(caption.requested) == set(caption.labels) for caption in asked)
    return exact / len(asked) if asked else None


def per_class(captions: Sequence[Caption], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each class: captions that it leads, that were asked for it, that mention it, and both of these."""
    first = Counter(caption.requested[0] for caption in captions if caption.requested)
    requested = Counter(name for caption in captions for name in caption.requested)
    mined = Counter(name for caption in captions for name in caption.labels)
    both = Counter(name for caption in captions for name in set(caption.requested) & set(caption.labels))
    return {
        name: {"first": first[name], "requested": requested[name], "mined": mined[name], "both": both[name]}
        for name in names
    }


def pairs(captions: Sequence[Caption]) -> dict[str, dict[str, int]]:
    """How many captions mention both of two classes; each pair once, in label-set order."""
    counts: dict[str, dict[str, int]] = {}
    for caption in captions:
        for one, other in combinations(caption.labels, 2):
            beside = counts.setdefault(one, {})
            beside[other] = beside.get(other, 0) + 1
    return counts


def manifest(mixture: Mixture, names: Sequence[str], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The captions in numbers; ``facts`` are what each source says about itself."""
    captions, topped_up = mixture.captions, mixture.topped_up
    by_source = {name: [caption for caption in captions if caption.source == name] for name in facts}
    sizes = Counter(len(caption.labels) for caption in captions)
    return {
        "count": len(captions),
        "classes_per_caption": {str(size): count for size, count in sorted(sizes.items())},
        "agreement": agreement(captions),
        "per_class": per_class(captions, names),
        "pairs": pairs(captions),
        "sources": {
            name: {"count": len(own), "agreement": agreement(own), "per_class": per_class(own, names), **facts[name]}
            for name, own in by_source.items()
            if own or name in topped_up
        },
        "topped_up": {name: dict(sorted(counts.items())) for name, counts in topped_up.items()},
    }
