"""The teacher behind a server that speaks OpenAI's chat API: hosted, vLLM, Ollama, llama.cpp, `transformers serve`."""

from __future__ import annotations

import dataclasses
import email.utils
import importlib
import os
import re
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from . import corpora, runtime
from .files import UserError
from .records import Record
from .teachers import NEVER, Candidate, Teacher, Unavailable, error_of, examples, messages, prompt_version

HOSTED = "https://api.openai.com/v1"
LONGEST_WAIT = 120.0  # seconds: a server that asks for more is done for today
FILTERED = "refused by the server's filter"
LARGEST = 10 * 2**20  # bytes of an answer
SLOWEST = 10  # times the timeout: a body that comes byte by byte never runs into the timeout itself
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def secret(name: str = "OPENAI_API_KEY") -> str:
    """A key from Colab's secrets, else from the environment, else "". Raises `UserError` for one that cannot be a key."""
    key = ""
    if name and runtime.where() == "colab":
        try:
            from google.colab import userdata  # type: ignore[import-not-found]

            key = userdata.get(name) or ""
        except Exception:  # no such secret, no access for this notebook, no browser to give it: the environment is next
            key = ""
    key = (key or os.environ.get(name, "")).strip() if name else ""
    if key and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError(f"{name} holds characters that no key has (a space, a line break, a full-width letter): copy it anew.")
    return key


class _Pace:
    """Spaces requests out: at most `per_minute` (0: as they come), none before a time that the server asked to wait for."""

    def __init__(self, per_minute: float):
        self.gap = 60 / per_minute if per_minute else 0.0
        self.next = 0.0
        self.lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        with self.lock:
            at = max(self.next, time.monotonic())
            self.next = at + self.gap
        stop.wait(max(at - time.monotonic(), 0))

    def hold(self, seconds: float) -> None:
        with self.lock:
            self.next = max(self.next, time.monotonic() + seconds)


def endpoint(
    model: str,
    base_url: str = "",
    *,
    key_name: str = "OPENAI_API_KEY",
    library: Sequence[Record] | None = None,
    hint: bool = True,
    workers: int = 4,
    per_minute: float = 0,
    timeout: float = 60.0,
    tries: int = 6,
    backoff: float = 1.0,
    max_tokens: int = 300,
    temperature: float = 0.8,
) -> Teacher:
    """A teacher behind an OpenAI-compatible server, asked through the official client with `workers` requests at once.

    `base_url` defaults to `OPENAI_BASE_URL`, else OpenAI. `key_name` names the Colab secret or environment variable that holds
    the key; a local server needs none. Sample 0 is asked for at temperature 0, later ones at `temperature` with their number as
    seed. 429, 5xx, timeouts (`timeout` seconds without a byte) and lost connections are tried again up to `tries` times, after the
    server's Retry-After and a random wait that doubles from `backoff` seconds on; then `Unavailable`. An unusable answer is a
    candidate with an error. Raises `UserError` for what another try cannot mend: the key, the model's name, the quota, a request
    that the server refuses.
    """
    url = (base_url or os.environ.get("OPENAI_BASE_URL") or HOSTED).rstrip("/")
    host, where = _address(url)
    if not model.strip():
        raise UserError("Name the model that the endpoint is to use.")
    key = secret(key_name)
    if not key and url == HOSTED:
        raise UserError(f"No key: put {key_name} into Colab's secrets (the key symbol on the left) or into the environment.")
    if key and url.startswith("http:") and host not in LOOPBACK:
        raise UserError(f"{where}: a key would travel unencrypted. Use https, or key_name='' for a server that needs none.")
    shown = examples(corpora.questions() if library is None else library)
    server = _Server(url, where, key, key_name, model, timeout, tries, backoff, _Pace(per_minute))

    def ask(records: Sequence[Record], sample: int = 0, stop: threading.Event = NEVER) -> list[Candidate]:
        settings = {"max_tokens": max_tokens, "temperature": temperature if sample else 0.0} | ({"seed": sample} if sample else {})
        found = (server.candidate(r.id, messages(r, shown, hint), settings, stop) for r in records)
        return [candidate for candidate in found if candidate]

    asked_with = prompt_version(shown, hint, max_tokens=max_tokens, temperature=temperature)
    return Teacher("endpoint", f"{model} @ {host}", asked_with, 1, ask, workers=workers)


class _Server:
    """One model on one server: sends, tries again, and tells what another try cannot mend."""

    def __init__(self, url, where, key, key_name, model, timeout, tries, backoff, pace):
        import openai

        self.where, self.key, self.key_name, self.model = where, key, key_name, model
        self.timeout, self.tries, self.backoff, self.pace = timeout, tries, backoff, pace
        # Its own retries are off: they know neither the stop event nor the other workers.
        http = openai.DefaultHttpxClient(event_hooks={"response": [_bounded(timeout)]})
        self.client = openai.OpenAI(api_key=key or "none", base_url=url, timeout=timeout, max_retries=0, http_client=http)
        # What this model calls a setting; one that it does not take is left out.
        self.names = {name: name for name in ("max_tokens", "temperature", "seed")}

    def candidate(self, record_id: str, chat: list[dict], settings: dict, stop: threading.Event) -> Candidate | None:
        """The answer to one chat; None when `stop` came first. Raises `UserError`, `Unavailable`."""
        import openai

        began, problem, error = time.monotonic(), None, ""
        # Problems are raised outside the except blocks: a chained exception would carry the server's words, which may quote the key.
        try:
            answer = self._send(chat, settings, stop)
        except openai.APIConnectionError as failure:
            reason = f"no answer within {self.timeout:g} s" if isinstance(failure, openai.APITimeoutError) else "no connection"
            problem = Unavailable(f"{self.where}: {reason}, {self.tries} times. Check that the server runs; run again to go on.")
        except openai.APIStatusError as failure:
            if failure.code == "content_filter":
                error = FILTERED
            elif _transient(failure):
                problem = Unavailable(f"{self.where}: HTTP {failure.status_code}, {self.tries} times. Run again later to go on.")
            else:
                problem = self._refused(failure)
        except (ValueError, openai.OpenAIError):  # a body that is no JSON, or not of this kind
            error = "malformed answer"
        if error:
            return Candidate(record_id, "", seconds=time.monotonic() - began, error=error)
        if problem:
            if stop.is_set() and isinstance(problem, Unavailable):
                return None
            raise problem
        if answer is None:
            return None
        if found := getattr(answer, "error", None):  # some routers answer 200 with an error in it
            raise Unavailable(f"{self.where}: {self._clean(found)}. Run again to go on.")
        found = _read(record_id, answer, time.monotonic() - began, sum(len(m["content"].encode()) for m in chat))
        # What a server says back is kept, and may be trained on.
        return dataclasses.replace(found, text=found.text.replace(self.key, "[key]")) if self.key else found

    def _send(self, chat: list[dict], settings: dict, stop: threading.Event):
        import tenacity

        sent: dict = {}

        def send():
            self.pace.wait(stop)
            if stop.is_set():
                return None
            names = dict(self.names)
            sent.clear()
            sent.update({names[name]: value for name, value in settings.items() if name in names})
            return self.client.chat.completions.create(model=self.model, messages=chat, **sent)

        def pause(state: tenacity.RetryCallState) -> float:
            failure = state.outcome.exception()
            if not _transient(failure):
                return 0.0
            # For all workers: the others would only be told the same.
            self.pace.hold(min(retry_after(failure), LONGEST_WAIT))
            return jitter(state)

        jitter = tenacity.wait_random_exponential(multiplier=self.backoff, max=30)
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda failure: _transient(failure) or self._adapted(failure, sent)),
            wait=pause,
            stop=tenacity.stop_after_attempt(self.tries),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )(send)

    def _adapted(self, failure: BaseException, sent: dict) -> bool:
        """Whether the server named a setting that was sent and that its model does not take: renamed or left out from now on."""
        if getattr(failure, "status_code", 0) != 400:
            return False
        if "max_completion_tokens" in str(failure) and "max_tokens" in sent:
            self.names["max_tokens"] = "max_completion_tokens"
            return True
        if failure.param in ("temperature", "seed") and failure.param in sent:
            self.names.pop(failure.param, None)
            return True
        return False

    def _refused(self, failure) -> UserError:
        code = failure.status_code
        if code in (401, 403):
            # The server's words are left out: they quote the key.
            name = self.key_name or "key_name"
            return UserError(f"{self.where} does not accept the key (HTTP {code}): check {name} in Colab's secrets or the environment.")
        if code == 404:
            return UserError(f"{self.where} has no model {self.model!r} (HTTP 404). {self._listed()}")
        why = f"(HTTP {code}: {self._clean(failure)})"
        if code == 429:
            return UserError(f"{self.where}: the quota of this key is used up {why}. Run again when it is renewed.")
        return UserError(f"{self.where} refuses the request for model {self.model!r} {why}.")

    def _listed(self) -> str:
        try:
            models = self.client.with_options(timeout=min(self.timeout, 10)).models.list().data
            names = self._clean(", ".join(str(m.id) for m in models), 300)
        except Exception:  # a courtesy: whatever keeps the list away must not hide the error that is being reported
            names = ""
        return f"The server lists: {names}." if names else "Check the address, too: most end in /v1."

    def _clean(self, words: object, length: int = 200) -> str:
        text = " ".join(str(words).split())
        return (text.replace(self.key, "[key]") if self.key else text)[:length]


def _bounded(timeout: float):
    """What keeps a body that never ends from filling the memory or holding up the run: a hook on responses, before they are read."""
    import openai

    # openai 3 goes by httpx2, openai 2 by httpx: the module that its own client comes from.
    httpx = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])

    class Bounded(httpx.SyncByteStream):
        def __init__(self, stream):
            self.stream = stream

        def __iter__(self):
            size, ends = 0, time.monotonic() + SLOWEST * timeout
            for block in self.stream:
                size += len(block)
                if size > LARGEST or time.monotonic() > ends:
                    raise httpx.ReadTimeout(f"the answer did not end within {LARGEST >> 20} MB and {SLOWEST * timeout:g} s")
                yield block

        def close(self):
            self.stream.close()

    def bound(response) -> None:
        response.stream = Bounded(response.stream)

    return bound


def _transient(failure: BaseException | None) -> bool:
    import openai

    if not isinstance(failure, openai.APIStatusError):
        return isinstance(failure, openai.APIConnectionError)
    if failure.status_code == 429:
        return failure.code != "insufficient_quota" and retry_after(failure) <= LONGEST_WAIT
    return failure.status_code in (408, 409, 425) or failure.status_code >= 500


def _address(url: str) -> tuple[str, str]:
    """Host of an address, and the address without what could be a secret (user, password, query)."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname, f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:  # a port that is no number
        pass
    raise UserError("The address of the endpoint must look like http://localhost:8000/v1 or https://host/v1.")


def retry_after(error: BaseException | None) -> float:
    """Seconds that a server asks to wait (Retry-After in seconds or as a date, RFC 9110; retry-after-ms), else 0."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        text = headers.get(name, "")
        try:
            seconds = float(text) / unit
            return seconds if seconds > 0 else 0.0  # not max(): of NaN it makes NaN
        except ValueError:
            continue
    date = email.utils.parsedate_to_datetime(text) if re.search(r"\d{4} \d\d:\d\d:\d\d", text) else None
    return max(date.timestamp() - time.time(), 0.0) if date else 0.0


def _read(record_id: str, answer: object, seconds: float, asked: int) -> Candidate:
    """A server's answer as a candidate. Tokens that it does not count: one per three bytes, of which `asked` went out."""
    try:
        choice = answer.choices[0]
        text, ended = choice.message.content, choice.finish_reason
        usage = getattr(answer, "usage", None)
    except (AttributeError, IndexError, TypeError, KeyError):
        return Candidate(record_id, "", seconds=seconds, error="malformed answer")
    if not isinstance(text, str | None):
        return Candidate(record_id, "", seconds=seconds, error="malformed answer")
    text = (text or "").encode("utf-8", "replace").decode()
    counted = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [n if isinstance(n, int) else size // 3 for n, size in zip(counted, (asked, len(text.encode())), strict=True)]
    error = FILTERED if ended == "content_filter" else error_of(text, ended == "length")
    return Candidate(record_id, text.strip(), *tokens, seconds, error)
