"""A language model behind an OpenAI-compatible HTTP server: vLLM, llama.cpp, Ollama, ``transformers serve``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from t2ipal.captions.answers import Answer, Request
from t2ipal.errors import UserError
from t2ipal.hub import first_line
from t2ipal.settings import LlmSettings

# The pauses of the openai library, which waits so before it repeats a request that failed.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
# Characters of a server's own words that are passed on.
SAID = 200

Keep = Callable[[Request, Answer], None]


class Server:
    """Answers requests by ``/chat/completions``, ``captions.llm.concurrency`` at a time."""

    def __init__(self, settings: LlmSettings) -> None:
        """Raises UserError: ``captions.llm.url`` is no address."""
        self.settings, self.url = settings, settings.url or ""
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"captions.llm.url '{self.url}' is no address; write it as http://localhost:8000/v1")

    @property
    def identity(self) -> str:
        """The name that the server has for the model. Where the server is does not matter: ports change."""
        return f"server:{self.settings.model}"

    def prepare(self) -> None:
        """Nothing to do: the server is there or not."""

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        """Answer all requests; each answer is kept as it arrives.

        What a server may get over is tried again ``captions.llm.retries`` times with growing pauses, or after the
        time that the server asks for (Retry-After): no connection, time-outs, statuses 408, 409, 429 and 5xx, and
        replies that are no completions.

        Raises:
            UserError: the server cannot be reached, stalls, fails, refuses or talks rubbish all the same.
        """
        asyncio.run(self._answer(requests, keep))

    async def _answer(self, requests: Sequence[Request], keep: Keep) -> None:
        import openai

        settings, gate = self.settings, asyncio.Semaphore(self.settings.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(settings.key_variable) or "none",
            timeout=settings.timeout,
            max_retries=settings.retries,
        ) as client:

            async def one(request: Request) -> None:
                async with gate:
                    keep(request, await self._completion(client, request))

            tasks = [asyncio.create_task(one(request)) for request in requests]
            try:
                await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    async def _completion(self, client: Any, request: Request) -> Answer:
        import openai

        system = [{"role": "system", "content": request.system}] if request.system else []
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            try:
                reply = await client.chat.completions.create(
                    model=self.settings.model,
                    messages=[*system, {"role": "user", "content": request.prompt}],
                    temperature=request.temperature,
                    top_p=request.top_p,
                    max_tokens=request.max_tokens,
                    seed=request.seed,
                )
            except openai.APIResponseValidationError:
                continue
            except openai.APIError as error:
                raise UserError(f"captions.llm.url {self.url} {self._complaint(error)}") from None
            except ValueError:
                continue
            answer = _read(reply)
            if answer is not None:
                return answer
        raise UserError(
            f"captions.llm.url {self.url} sends replies that are no chat completions ({self._tries}); "
            f"is it the address of an OpenAI-compatible server, up to its /v1?"
        )

    @property
    def _tries(self) -> str:
        return f"{self.settings.retries} retries" if self.settings.retries != 1 else "1 retry"

    def _complaint(self, error: Any) -> str:
        """What went wrong and the mend, behind the address."""
        import openai

        settings = self.settings
        if isinstance(error, openai.APITimeoutError):
            return (
                f"gives no answer within {settings.timeout:g} seconds ({self._tries}); look after the server, "
                f"raise captions.llm.timeout or lower captions.llm.concurrency"
            )
        if not isinstance(error, openai.APIStatusError):
            cause = first_line(error.__cause__ or error)[:SAID]
            return f"cannot be reached ({cause}; {self._tries}); start the server or mend the address"
        said = f"{error.status_code}: {first_line(error)[:SAID]}"
        if error.status_code in (401, 403):
            return f"refuses the API key ({said}); put the right one into environment variable {settings.key_variable}"
        if error.status_code == 404:
            return f"has no model '{settings.model}' or no such path ({said}); mend captions.llm.model or the address"
        if error.status_code == 429:
            return f"is asked too often ({said}; {self._tries}); lower captions.llm.concurrency or wait"
        if error.status_code >= 500:
            return f"fails ({said}; {self._tries}); look into the server's log"
        return f"refuses the request ({said}); mend the settings in captions.llm"


def _read(reply: Any) -> Answer | None:
    """The first choice of a chat completion; None if the reply is none. The library does not check what it is sent."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        return None
    message: Any = getattr(choices[0], "message", None)
    if not hasattr(message, "content"):
        return None
    text = message.content if isinstance(message.content, str) else ""
    return Answer(text.encode(errors="replace").decode(), finished=choices[0].finish_reason != "length")
