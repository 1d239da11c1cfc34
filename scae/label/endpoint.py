"""An OpenAI-compatible chat endpoint: POST {endpoint}/chat/completions.

Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY). Redirects are errors: they would carry the
token elsewhere.
"""

import http.client
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from typing import Any

from scae.label.failures import LabelError, one_line
from scae.label.scoring import Answer

RETRIES = 6
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the endpoint asks for."""
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
HINTS = {
    401: "; the token is read from the environment variable {variable}",
    403: "; the token is read from the environment variable {variable}",
    404: "; --endpoint is what stands before /chat/completions, such as http://localhost:8000/v1",
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """`endpoint(prompt)`: the answer of `model`. Safe to call from several threads.

    token: sent as `Authorization: Bearer`, and appears nowhere else, also where the endpoint repeats it; variable:
    where it came from, for messages. timeout: seconds that the endpoint may be silent. Raises LabelError where asking
    again is of no use, and where it has been of none.
    """

    def __init__(
        self, url: str, *, model: str, token: str, variable: str, timeout: float, longest: int, first_wait: float = 1.0
    ) -> None:
        self._url = _completions(url)
        self.place = _without_query(self._url)
        self._model, self._variable, self._timeout, self._first_wait = model, variable, timeout, first_wait
        self._token = token.strip()
        if not (self._token.isascii() and all(letter.isprintable() for letter in self._token)):
            raise LabelError(
                f"the environment variable {variable} holds no token: it has letters that no header may have"
            )
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": longest}
        self._opener = urllib.request.build_opener(_NoRedirect)
        self.stopped = threading.Event()
        """Once set, no more is sent."""

    def __call__(self, prompt: str) -> Answer:
        waited = 0
        while True:
            if self.stopped.is_set():
                raise LabelError("stopped")
            options = self._options
            try:
                return self._send(prompt, options)
            except urllib.error.HTTPError as error:
                with error:
                    said = self._hidden(_message(error))
                if error.code == 400 and (fewer := _without_refused(options, said)) != options:
                    self._options = fewer
                    continue
                problem = f"{self.place} answered {error.code}{': ' if said else ''}{said}"
                if error.code not in AGAIN:
                    raise LabelError(problem + HINTS.get(error.code, "").format(variable=self._variable)) from None
                wanted = _asked_wait(error.headers)
            except (http.client.HTTPException, OSError) as error:
                if _is_final(error):
                    raise LabelError(f"{self.place} cannot be reached: {self._hidden(_reason(error))}") from None
                problem, wanted = f"{self.place} does not answer: {self._hidden(_reason(error))}", None
            if waited == RETRIES:
                raise LabelError(f"{problem}; asked {RETRIES + 1} times") from None
            backoff = self._first_wait * 2**waited if wanted is None else wanted
            self.stopped.wait(min(backoff, LONGEST_WAIT))
            waited += 1

    def _send(self, prompt: str, options: dict[str, Any]) -> Answer:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}], **options}
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "scae"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
        with self._opener.open(request, timeout=self._timeout) as response:
            raw = response.read()
        try:
            choice = json.loads(raw)["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            if isinstance(text, list):  # parts, which some endpoints make of it
                text = "".join(part.get("text", "") for part in text)
            if not isinstance(text, str | None):
                raise TypeError("the content is no text")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            shown = self._hidden(one_line(raw[:400].decode(errors="replace"), 120))
            raise LabelError(f"{self.place} answered with what is no chat completion: {shown or 'nothing'}") from error
        refused = bool(refusal) or choice.get("finish_reason") == "content_filter"
        return Answer(text=self._hidden(str((refusal if refusal else text) or "")), refused=refused)

    def _hidden(self, text: str) -> str:
        return text.replace(self._token, "[token]") if self._token else text


def _completions(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        named = named and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        named = False
    if named and "@" in parts.netloc:
        raise LabelError("--endpoint must hold no user or password: a token is read from the environment")
    if not named:
        raise LabelError("--endpoint is no address such as http://localhost:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return urllib.parse.urlunsplit(parts._replace(path=f"{path}/chat/completions", fragment=""))


def _without_query(url: str) -> str:
    """A query may hold a key."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query=""))


def _without_refused(options: dict[str, Any], message: str) -> dict[str, Any]:
    """What models that think first do not take is left out, or has another name there."""
    fewer = dict(options)
    if "max_tokens" in message and "max_tokens" in fewer:
        fewer["max_completion_tokens"] = fewer.pop("max_tokens")
    elif "temperature" in message:
        fewer.pop("temperature", None)
    return fewer


def _message(error: urllib.error.HTTPError) -> str:
    """What an endpoint says about an error, as far as it says it."""
    try:
        raw = error.read(10_000).decode(errors="replace")
    except (http.client.HTTPException, OSError):
        return ""
    try:
        content = json.loads(raw)
        said = content.get("error", content) if isinstance(content, dict) else content
        raw = str(said["message"]) if isinstance(said, dict) and "message" in said else str(said)
    except ValueError:
        pass
    return one_line(raw, 200)


def _asked_wait(headers: Message) -> float | None:
    """Seconds of Retry-After; its form as a date is left to the backoff."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def _is_final(error: Exception) -> bool:
    """No connection at all, where asking again is of no use; one that broke, or was silent, is another thing."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return not isinstance(cause, TimeoutError | ConnectionResetError | BrokenPipeError | http.client.HTTPException)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return one_line(str(cause) or type(cause).__name__, 200)
