"""`ChatJudge`, what judges by a language model share: requests and the small model."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from firstlight.intrinsic.language.judges.judge import Judge, JudgeError
from firstlight.intrinsic.language.limits import CHARACTERS_OF_A_TOKEN
from firstlight.intrinsic.language.local_server import NAME, LocalServer

KEY = "OPENAI_API_KEY"
"""Environment variable with the key; read at the first request, and written nowhere."""

TOP_LOGPROBS = 20
"""Tokens in each place whose log-probabilities are asked for; OpenAI gives no more."""

_PERMANENT = (401, 403, 404)
_NOT_KNOWN = (400, 415, 422, 501)
_LOGPROBS = frozenset({"logprobs", "top_logprobs"})
_SCHEMA = frozenset({"response_format"})
_LEFT_OUT = (frozenset[str](), _LOGPROBS, _SCHEMA, _LOGPROBS | _SCHEMA)
"""What is left out of requests, tried in this order with an endpoint that refuses them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a language model.

    Args:
        text: the message.
        tokens: its tokens in order, each with the log-probabilities of the likeliest tokens in its
            place; empty where the endpoint gives none.
    """

    text: str
    tokens: Sequence[tuple[str, Mapping[str, float]]] = ()


class ChatJudge(Judge):
    """A judge that asks a language model behind an endpoint with OpenAI's interface.

    The endpoint is first used, and the small model started, when something is asked.

    The client's own retries are off: the annotation service repeats requests. A server that refuses
    a JSON schema, or log-probabilities, is asked without from then on.

    Args:
        model: the model's name at the endpoint; None starts a small model of ours (`LocalServer`),
            which `close` ends.
        url: of the endpoint, such as "http://127.0.0.1:8000/v1"; default OpenAI's.
        temperature: of sampling.
        timeout_seconds: for a whole request; default 60, for the small model 600, which has a low
            priority and waits when the processor is busy.
        cpu_share: cores that the small model may use, on average while there is something to ask:
            0.25 is a quarter of one core, see `LocalServer`.

    Raises:
        ImportError: if the extra `llm`, or for the small model `llm-local`, is not installed.
    """

    def __init__(
        self,
        *,
        model: str | None,
        url: str | None = None,
        temperature: float = 0.1,
        timeout_seconds: float | None = None,
        cpu_share: float = 1.0,
    ):
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "a language model as judge needs the package 'openai': "
                "pip install 'firstlight[llm]'"
            ) from error
        self._openai, self._url = openai, url
        self.model, self.temperature = model or NAME, temperature
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._level = 0  # of `_LEFT_OUT`
        self._starts_small, self._cpu_share = model is None, cpu_share
        self._server: LocalServer | None = None
        self._client: Any = None
        self._timeout = timeout_seconds or (600.0 if model is None else 60.0)

    def _connect(self) -> Any:
        """Return the client; the first request starts the small model, which takes seconds."""
        with self._starting:
            if self._client is None and not self._closed.is_set():
                if self._starts_small:
                    self._server = LocalServer(cpu_share=self._cpu_share)
                url = self._url if self._server is None else self._server.url
                key = os.environ.get(KEY) if self._server is None else None
                self._client = self._openai.OpenAI(
                    base_url=url,
                    api_key=key or "none",  # local servers ask for none, the client for some
                    max_retries=0,
                    timeout=self._timeout,
                )
            if self._closed.is_set():
                raise JudgeError("the judge is closed")
            return self._client

    def close(self) -> None:
        """Close the connections, and end the small model; requests under way fail."""
        self._closed.set()
        with self._starting:
            if self._client is not None:
                self._client.close()
            if self._server is not None:
                self._server.close()

    def send(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        top_logprobs: int = 0,
    ) -> Reply:
        """Send one request.

        Args:
            messages: of the conversation.
            schema: JSON schema of the answer, for servers that can enforce one; None for any text.
            max_tokens: of the answer.
            top_logprobs: for how many tokens in each place log-probabilities are asked for.

        Raises:
            JudgeError: for whatever goes wrong; its message holds the status and no more.
        """
        openai = self._openai
        optional: dict[str, Any] = {}
        if schema is not None:
            form = {"name": "answer", "strict": True, "schema": schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": form}
        if top_logprobs:
            optional |= {"logprobs": True, "top_logprobs": top_logprobs}
        client, level = self._connect(), self._level
        sent = {name: x for name, x in optional.items() if name not in _LEFT_OUT[level]}
        with self._lock:
            self.calls += 1
        with self._judge_errors():
            try:
                with self._share():
                    answer = client.chat.completions.create(
                        model=self.model,
                        messages=list(messages),
                        temperature=self.temperature,
                        max_tokens=max_tokens,
                        **sent,
                    )
            except openai.APIStatusError as error:
                if not sent or error.status_code not in _NOT_KNOWN:
                    raise
                while optional.keys() - _LEFT_OUT[level] == sent.keys():
                    level += 1
                self._level = max(self._level, level)
                return self.send(
                    messages, schema=schema, max_tokens=max_tokens, top_logprobs=top_logprobs
                )
        try:
            content = answer.choices[0].message.content
            reply = Reply(content if isinstance(content, str) else "", _tokens(answer.choices[0]))
            self._count(answer.usage, sum(len(m["content"]) for m in messages), len(reply.text))
        except (AttributeError, TypeError, LookupError):
            raise JudgeError("the endpoint's answer has another form than OpenAI's") from None
        return reply

    def next_token_logprobs(self, text: str) -> dict[str, float]:
        """Ask for the log-probabilities of the likeliest tokens that continue a text.

        Needs an endpoint for completions that gives log-probabilities.

        Raises:
            JudgeError: for whatever goes wrong, as in `send`.
        """
        client = self._connect()
        with self._lock:
            self.calls += 1
        with self._judge_errors(), self._share():
            answer = client.completions.create(
                model=self.model,
                prompt=text,
                temperature=self.temperature,
                max_tokens=1,
                logprobs=TOP_LOGPROBS,
            )
        try:
            first = answer.choices[0].logprobs.content[0]  # llama.cpp's form of it
            found = {each["token"]: float(each["logprob"]) for each in first["top_logprobs"]}
            self._count(answer.usage, len(text), 1)
        except (AttributeError, TypeError, LookupError, ValueError):
            raise JudgeError("the endpoint gave no log-probabilities of the next token") from None
        return found

    @contextmanager
    def _judge_errors(self) -> Iterator[None]:
        """Turn the client's errors into JudgeError, with the status and no more."""
        openai = self._openai
        try:
            yield
        except openai.APIStatusError as error:
            raise JudgeError(
                f"the endpoint answered with status {error.status_code}",
                retry_after=_retry_after(error.response.headers),
                permanent=error.status_code in _PERMANENT,
            ) from None
        except openai.APIError as error:
            raise JudgeError(f"no answer from the endpoint: {type(error).__name__}") from None
        except ValueError as error:  # a body that is no JSON
            raise JudgeError(f"no readable answer: {type(error).__name__}") from None

    def _share(self) -> AbstractContextManager[None]:
        """Wait until the small model may use the processor again; other endpoints need not."""
        return nullcontext() if self._server is None else self._server.share(self._closed)

    def _count(self, usage: Any, asked: int, answered: int) -> None:
        """Count tokens; by characters where the endpoint does not say, so that limits hold."""
        sizes = (asked // CHARACTERS_OF_A_TOKEN, answered // CHARACTERS_OF_A_TOKEN)
        if usage is not None:
            sizes = (usage.prompt_tokens, usage.completion_tokens)
        with self._lock:
            self.input_tokens += sizes[0]
            self.output_tokens += sizes[1]
            self.tokens += sum(sizes)


def _tokens(choice: Any) -> list[tuple[str, dict[str, float]]]:
    """Read the log-probabilities of an answer; none if the endpoint gave none."""
    logprobs = choice.logprobs
    if logprobs is None or not logprobs.content:
        return []
    return [
        (
            entry.token,
            {each.token: each.logprob for each in (entry, *(entry.top_logprobs or ()))},
        )
        for entry in logprobs.content
    ]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of the header Retry-After; None for none, or a date."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
