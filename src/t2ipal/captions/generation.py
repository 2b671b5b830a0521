"""Answers of a loaded causal language model: prompts in its chat format, sampling from each request's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from t2ipal.captions.answers import Answer, Request
from t2ipal.errors import UserError

CANDIDATES = 1024


def nucleus_sample(
    logits: torch.Tensor, generators: Sequence[torch.Generator], temperature: float, top_p: float
) -> torch.Tensor:
    """One token for each row of logits [B, V] -> [B], from the smallest set of tokens whose probability is ``top_p``.

    Nucleus sampling (Holtzman et al. 2020) by the Gumbel-max trick: the token is the argmax of scaled logits and
    noise that the row's own CPU generator draws for each token of the vocabulary. So a row depends on its logits and
    its generator alone, and an error of rounding in the logits changes it only where two sums are that close.

    Raises:
        UserError: the logits are not numbers.
    """
    if bool(torch.isnan(logits).any()):
        raise UserError("the language model computes no numbers (NaN); set captions.llm.dtype to bfloat16 or float32")
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.float() / temperature
    noise = torch.stack([torch.rand(logits.shape[-1], generator=generator) for generator in generators])
    values, tokens, before = _likeliest(scaled, min(CANDIDATES, logits.shape[-1]))
    if bool((before[:, -1] < top_p).any()):
        values, tokens, before = _likeliest(scaled, logits.shape[-1])
    gumbel = -torch.log(-torch.log(noise.to(logits.device).gather(-1, tokens)))
    chosen = torch.where(before < top_p, values + gumbel, -torch.inf).argmax(-1, keepdim=True)
    return tokens.gather(-1, chosen).squeeze(-1)


def _likeliest(scaled: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and numbers of the ``count`` likeliest tokens, and the probability of those before, all [B, count]."""
    values, tokens = torch.topk(scaled, count)
    probabilities = torch.exp(values - torch.logsumexp(scaled, -1, keepdim=True))
    return values, tokens, probabilities.cumsum(-1) - probabilities


class _Sampler:
    """What ``generate`` calls with the logits of a step: leaves only the sampled token possible."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.temperature, self.top_p = requests[0].temperature, requests[0].top_p
        self.generators = [torch.Generator().manual_seed(request.seed) for request in requests]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = nucleus_sample(scores, self.generators, self.temperature, self.top_p)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


@torch.inference_mode()
def generate(tokenizer: Any, model: Any, requests: Sequence[Request]) -> list[Answer]:
    """The answers to requests that differ in prompt and seed only; an answer hardly depends on the others.

    Raises:
        UserError: the chat template fails, the GPU's memory is too small, or the model computes no numbers.
    """
    from transformers import GenerationConfig

    prompts = [_tokens(tokenizer, request) for request in requests]
    ends = _end_tokens(tokenizer, model)
    pad = ends[0] if ends else 0
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=requests[0].max_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad,
        eos_token_id=ends or None,
    )
    try:
        written = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[_Sampler(requests)]
        )
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory is too small for {len(requests)} answers at once; lower captions.llm.batch_size"
        ) from error
    return [_answer(tokenizer, row, ends, requests[0].max_tokens) for row in written[:, longest:].tolist()]


def _answer(tokenizer: Any, row: list[int], ends: Sequence[int], limit: int) -> Answer:
    end = next((index for index, token in enumerate(row) if token in ends), len(row))
    return Answer(tokenizer.decode(row[:end], skip_special_tokens=True), finished=end < limit)


def _end_tokens(tokenizer: Any, model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return [] if ends is None else list(ends) if isinstance(ends, list) else [ends]


def _tokens(tokenizer: Any, request: Request) -> list[int]:
    """The prompt in the model's chat format, or as plain text where it has none."""
    from jinja2 import TemplateError

    system = [{"role": "system", "content": request.system}] if request.system else []
    merged = [{"role": "user", "content": f"{request.system}\n\n{request.prompt}".strip()}]
    if not tokenizer.chat_template:
        return list(tokenizer(f"{merged[0]['content']}\n\nCaption:")["input_ids"])
    try:
        text = _rendered(tokenizer, [*system, {"role": "user", "content": request.prompt}])
    except TemplateError:
        # Some chat formats (Gemma) know no system message.
        try:
            text = _rendered(tokenizer, merged)
        except TemplateError as error:
            raise UserError(f"the chat template of captions.llm.model fails: {error}; choose another model") from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    # Models that think before they answer (Qwen3) are told not to; other templates do not look at it.
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    )
