"""Token counts by the tokenizers of several CLIPs."""

import pytest

from t2ipal.captions.tokens import TokenCounter
from t2ipal.errors import UserError

PACK = "local-dir:src/t2ipal/pack/models/clip"
TEXTS = ["a dog", "A  dog, and a \U0001f408.", "word " * 100]


@pytest.mark.parametrize("reference", [PACK, "RN50"])
def test_counts_are_those_of_the_tokenizer_that_open_clip_uses(reference: str) -> None:
    import open_clip

    counter = TokenCounter.load(reference)
    tokenizer = open_clip.get_tokenizer(reference)
    counts = counter.count(TEXTS)
    for text, count in zip(TEXTS, counts, strict=True):
        row, padding = tokenizer([text])[0], tokenizer(["a"])[0][-1]
        # The pack's own pads with its end token.
        length = int((row != padding).sum()) + (reference == PACK)
        assert min(count, counter.context) == length
    assert counts[2] > counter.context


def test_a_tokenizer_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"captions\.tokenizer 'no-such-clip' cannot be loaded"):
        TokenCounter.load("no-such-clip")
    with pytest.raises(UserError, match=r"captions\.tokenizer 'local-dir:/gone'"):
        TokenCounter.load("local-dir:/gone")
