"""`LLMJudge`, a language model behind any endpoint that speaks OpenAI's interface."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.intrinsic.language.judge import Judge, JudgeError, digest
from firstlight.intrinsic.language.local_server import NAME, LocalServer
from firstlight.intrinsic.language.prompts import Prompt
from firstlight.intrinsic.language.store import Item

KEY = "OPENAI_API_KEY"
"""Environment variable with the key; read when a request is sent, and written nowhere."""

_PERMANENT = (401, 403, 404)
_NO_SCHEMA = (400, 415, 422, 501)


class LLMJudge(Judge):
    """Asks a language model, several texts in a request, and reads its answer strictly.

    Each text has a random id of its request, so an answer to another question, or one that repeats
    an earlier one, labels nothing. Where the server knows JSON schemas the answer is bound to one;
    one that refuses them is asked without. What is missing or unreadable in an answer is asked once
    more, and then has no label.

    The client's own retries are off: the annotation service repeats requests.

    Args:
        model: the model's name at the endpoint; None starts a small model of ours (`LocalServer`),
            which `close` ends.
        url: of the endpoint, such as "http://127.0.0.1:8000/v1"; default OpenAI's.
        prompt: for single texts.
        pair_prompt: for comparisons; default `prompt.system` cannot do them, so they are refused.
        temperature: of sampling.
        max_tokens: tokens of an answer for each text.
        timeout_seconds: for a whole request; default 60, for the small model 600, which has a low
            priority and waits when the processor is busy.

    Raises:
        ImportError: if the extra `llm`, or for the small model `llm-local`, is not installed.
    """

    def __init__(
        self,
        *,
        model: str | None,
        prompt: Prompt,
        pair_prompt: Prompt | None = None,
        url: str | None = None,
        temperature: float = 0.1,
        max_tokens: int = 24,
        timeout_seconds: float | None = None,
    ):
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "a language model as judge needs the package 'openai': "
                "pip install 'firstlight[llm]'"
            ) from error
        self._openai = openai
        self.model, self._prompt, self._pair_prompt = model or NAME, prompt, pair_prompt
        pair = "" if pair_prompt is None else pair_prompt.digest
        self.prompt = digest(prompt.digest, pair, str(temperature))
        self.temperature, self.max_tokens = temperature, max_tokens
        self._schema_known, self._lock = True, threading.Lock()
        self._server = LocalServer() if model is None else None
        if self._server is not None:
            url = self._server.url
        timeout_seconds = timeout_seconds or (60.0 if self._server is None else 600.0)
        key = os.environ.get(KEY) if self._server is None else None
        key = key or "none"  # local servers ask for none, the client for some
        self._client = openai.OpenAI(
            base_url=url, api_key=key, max_retries=0, timeout=timeout_seconds
        )

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Rate texts; None where the model abstained or gave no readable answer."""
        return self._ask(self._prompt, [(text,) for text in texts])

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Compare pairs. Pairs of equal texts are ties, and are not asked."""
        if self._pair_prompt is None:
            raise JudgeError("this judge has no prompt for comparisons", permanent=True)
        open_pairs = [pair for pair in pairs if pair[0] != pair[1]]
        answers = iter(self._ask(self._pair_prompt, open_pairs) if open_pairs else [])
        return [0.5 if first == second else next(answers) for first, second in pairs]

    def close(self) -> None:
        """Close the connections, and end the small model; requests under way fail."""
        self._client.close()
        if self._server is not None:
            self._server.close()

    def _ask(self, prompt: Prompt, items: Sequence[Item]) -> list[float | None]:
        """Ask for all, then once more for those without an answer."""
        found: dict[int, float | None] = {}
        for _ in range(2):
            left = {_new_id(): i for i in range(len(items)) if i not in found}
            if not left:
                break
            reply = self._send(prompt, {name: items[i] for name, i in left.items()})
            found |= {left[name]: x for name, x in prompt.parse(reply, [*left]).items()}
        return [found.get(i) for i in range(len(items))]

    def _send(self, prompt: Prompt, items: Mapping[str, Item]) -> str:
        """Send one request and return the text of the answer.

        Raises:
            JudgeError: for whatever goes wrong; its message holds the status and no more.
        """
        openai = self._openai
        options: dict[str, Any] = {
            "model": self.model,
            "messages": prompt.messages(items),
            "temperature": self.temperature,
            "max_tokens": 16 + self.max_tokens * len(items),
        }
        with_schema = self._schema_known
        if with_schema:
            schema = {"name": "labels", "strict": True, "schema": prompt.schema([*items])}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        with self._lock:
            self.calls += 1
        try:
            answer = self._client.chat.completions.create(**options)
        except openai.APIStatusError as error:
            if with_schema and error.status_code in _NO_SCHEMA:
                self._schema_known = False
                return self._send(prompt, items)
            raise JudgeError(
                f"the endpoint answered with status {error.status_code}",
                retry_after=_retry_after(error.response.headers),
                permanent=error.status_code in _PERMANENT,
            ) from None
        except openai.APIError as error:
            raise JudgeError(f"no answer from the endpoint: {type(error).__name__}") from None
        except ValueError as error:  # a body that is no JSON
            raise JudgeError(f"no readable answer: {type(error).__name__}") from None
        try:
            with self._lock:
                self.tokens += answer.usage.total_tokens if answer.usage else 0
            content = answer.choices[0].message.content
        except (AttributeError, TypeError, LookupError):
            raise JudgeError("the endpoint's answer has another form than OpenAI's") from None
        return content if isinstance(content, str) else ""


def _new_id() -> str:
    return secrets.token_hex(3)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of the header Retry-After; None for none, or a date."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
