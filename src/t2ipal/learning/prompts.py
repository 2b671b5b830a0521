"""Learnable prompt contexts in front of class names, read by a frozen CLIP text tower (method.md §4; CoOp)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from t2ipal.config import PromptSettings
from t2ipal.errors import UserError

Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class TextTower:
    """The parts of an open_clip text tower that turn token embeddings into a joint embedding.

    Not a module: nothing of it is a parameter, or is saved, of what uses it.
    """

    transformer: nn.Module
    token_embedding: nn.Module
    positional_embedding: Tensor
    ln_final: nn.Module
    text_projection: Tensor | nn.Module | None
    attn_mask: Tensor
    eos_id: int | None

    @classmethod
    def of(cls, model: nn.Module) -> TextTower:
        """Take the tower out of an open_clip model (``CLIP``, or ``CustomTextCLIP`` with a ``TextTransformer``).

        Raises:
            UserError: the tower is not CLIP-style: causal, pooled at the end-of-text token.
        """
        root: Any = getattr(model, "text", model)
        needed = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
        if not all(hasattr(root, name) for name in needed):
            raise UserError(_refusal(model, "it is not open_clip's own text transformer"))
        if getattr(root, "attn_mask", None) is None:
            raise UserError(_refusal(model, "its text tower has no causal mask"))
        if getattr(root, "cls_emb", None) is not None:
            raise UserError(_refusal(model, "its text tower ends in a class token of its own"))
        pool = getattr(root, "text_pool_type", getattr(root, "pool_type", "argmax"))
        if pool not in ("argmax", "eos"):
            raise UserError(_refusal(model, f"its text tower pools by '{pool}', not at the end-of-text token"))
        eos_id = getattr(root, "text_eos_id", getattr(root, "eos_id", None)) if pool == "eos" else None
        return cls(**{name: getattr(root, name) for name in needed}, attn_mask=root.attn_mask, eos_id=eos_id)

    @property
    def width(self) -> int:
        """Width d of the token embeddings."""
        return int(self.positional_embedding.shape[1])

    @property
    def context_length(self) -> int:
        """Tokens that the tower can read."""
        return int(self.positional_embedding.shape[0])

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Position of the end-of-text token in each row of [N, T] ids, as open_clip's pooling finds it: [N]."""
        if self.eos_id is None:
            return tokens.argmax(dim=-1)
        return (tokens == self.eos_id).int().argmax(dim=-1)

    def encode(self, embedded: Tensor, end: Tensor) -> Tensor:
        """Joint embeddings [N, D], not normalised, of embedded tokens [N, T, d] that end at positions [N].

        The tower runs on these T positions only; under the causal mask, what follows the end changes nothing.
        """
        length, dtype = embedded.shape[1], self.positional_embedding.dtype
        hidden = embedded.to(dtype) + self.positional_embedding[:length]
        hidden = self.ln_final(self.transformer(hidden, attn_mask=self.attn_mask[:length, :length]))
        pooled: Tensor = hidden[torch.arange(len(hidden), device=hidden.device), end]
        if isinstance(self.text_projection, nn.Module):
            pooled = self.text_projection(pooled)
        elif self.text_projection is not None:
            pooled = pooled @ self.text_projection
        return pooled.to(embedded.dtype)


def _refusal(model: nn.Module, why: str) -> str:
    return (
        f"features.backbone: prompts cannot be learned for this {type(model).__name__}, because {why}; "
        "choose a CLIP model with a causal text tower"
    )


class PromptLearner(nn.Module):
    """Contexts V (global) and V' (local), and the class embeddings they give.

    A prompt is start-of-text, M context tokens, the class name's tokens, end-of-text. Its only parameters are
    ``context_global`` and ``context_local``: [M, d], or [C, M, d] with ``class_specific``. The embeddings of the
    names' tokens are computed once and never saved, so that a shared context can be moved to other names.
    """

    _start: Tensor
    _names: Tensor

    def __init__(
        self,
        tower: TextTower,
        tokenizer: Tokenizer,
        names: Sequence[str],
        settings: PromptSettings,
        rng: np.random.Generator,
    ) -> None:
        """Draw both contexts from N(0, init_std) and embed the names.

        Args:
            tower: the frozen text tower.
            tokenizer: texts -> [N, T] token ids with start and end of text, padded.
            names: class names as they stand in a sentence, C of them.
            settings: length, init_std and class_specific are read.
            rng: source of the initial contexts.

        Raises:
            UserError: the tokenizer has no start-of-text token, or a prompt is longer than the tower can read.
        """
        super().__init__()
        self._tower = tower
        tokens = _name_tokens(tower, tokenizer, names)
        end = tower.end_positions(tokens)
        longest = int(end.max())
        room = tower.context_length - longest - 1
        if settings.length > room:
            raise UserError(_too_long(names[int(end.argmax())], settings.length, room, tower.context_length))
        with torch.no_grad():
            embedded = tower.token_embedding(tokens[:, : longest + 1]).float()
        self.register_buffer("_start", embedded[:, :1], persistent=False)
        self.register_buffer("_names", embedded[:, 1:], persistent=False)
        self._end = end + settings.length
        shape: tuple[int, ...] = (settings.length, tower.width)
        if settings.class_specific:
            shape = (len(names), *shape)
        self.context_global = nn.Parameter(_initial_context(shape, settings.init_std, rng, tokens.device))
        self.context_local = nn.Parameter(_initial_context(shape, settings.init_std, rng, tokens.device))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Class embeddings of the present contexts: global G and local L, [C, D] each, L2-normalised."""
        prompts = torch.cat([self._prompts(self.context_global), self._prompts(self.context_local)])
        embeddings = normalize(self._tower.encode(prompts, self._end.repeat(2)), dim=-1)
        global_, local = embeddings.chunk(2)
        return global_, local

    def _prompts(self, context: Tensor) -> Tensor:
        """Embedded prompts [C, 1 + M + longest name + 1, d]."""
        shared = context.expand(len(self._names), -1, -1)
        return torch.cat([self._start, shared, self._names], dim=1)


def _name_tokens(tower: TextTower, tokenizer: Tokenizer, names: Sequence[str]) -> Tensor:
    """Token ids [C, T] of the bare names, checked to be start, name, end."""
    device = tower.positional_embedding.device
    empty = tokenizer([""]).to(device)
    tokens = tokenizer(list(names)).to(device)
    if int(tower.end_positions(empty)[0]) != 1 or not bool((tokens[:, 0] == empty[0, 0]).all()):
        raise UserError(
            "features.backbone: its tokenizer does not put one start-of-text token before the text; "
            "prompts can be learned for CLIP-style tokenizers only"
        )
    return tokens


def _initial_context(shape: tuple[int, ...], std: float, rng: np.random.Generator, device: torch.device) -> Tensor:
    return torch.as_tensor(rng.normal(0.0, std, shape), dtype=torch.float32, device=device)


def _too_long(name: str, length: int, room: int, context_length: int) -> str:
    mend = f"use at most {room} context tokens" if room >= 1 else "give the class a shorter prompt name"
    return (
        f"prompts.length: {length} context tokens and the class name '{name}' do not fit into the text tower's "
        f"{context_length} tokens; {mend}"
    )
