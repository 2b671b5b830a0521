"""How many tokens a text is for a CLIP, and whether its context holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2ipal.errors import UserError
from t2ipal.features.catalogue import canonical
from t2ipal.features.towers import HUB
from t2ipal.hub import first_line
from t2ipal.identity import local_directory
from t2ipal.io import read_json


@dataclass(frozen=True)
class TokenCounter:
    """The tokenizer of one CLIP; ``context`` is the number of its tokens, those of start and end among them."""

    encode: Any
    context: int

    @classmethod
    def load(cls, reference: str) -> TokenCounter:
        """The tokenizer of ``local-dir:PATH`` (without loading torch), ``hf-hub:ID`` or an open_clip model name.

        Raises:
            UserError: there is no such model, or it cannot be reached.
        """
        directory = local_directory(reference)
        try:
            if directory is not None:
                from tokenizers import Tokenizer

                tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
                config = read_json(directory / "open_clip_config.json")
                return cls(lambda text: tokenizer.encode(text).ids, config["model_cfg"]["text_cfg"]["context_length"])
            import open_clip

            name = reference if reference.startswith(HUB) else canonical(reference)
            # Of an unknown name open_clip would make the usual tokenizer.
            if not name.startswith(HUB) and name not in open_clip.list_models():
                raise ValueError("open_clip has no model of that name")
            found: Any = open_clip.get_tokenizer(name)
        except Exception as error:
            raise UserError(f"captions.tokenizer '{reference}' cannot be loaded: {first_line(error)}") from None
        if hasattr(found, "encode"):
            return cls(lambda text: [found.sot_token_id, *found.encode(text), found.eot_token_id], found.context_length)
        return cls(lambda text: found.tokenizer(found.clean_fn(text))["input_ids"], found.context_length)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, those of start and end among them, without truncation."""
        return [len(self.encode(text)) for text in texts]
