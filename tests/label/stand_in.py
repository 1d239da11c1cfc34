"""An OpenAI-compatible endpoint on this machine, and one that knows the answers."""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]
"""Status, headers, and what is sent back: text as it is, anything else as JSON."""


class StandIn:
    """An endpoint on this machine. answers: what is replied to a prompt; a text is the content of a completion."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: Callable[[str], str | Reply] = lambda prompt: "LABEL: something"
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
                answer = outer.answers(body["messages"][0]["content"])
                status, headers, content = (200, {}, completion(answer)) if isinstance(answer, str) else answer
                raw = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        return [request["body"]["messages"][0]["content"] for request in self.requests]


def completion(text: str | None, **more: Any) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **more}}]
    }


def snippets(prompt: str) -> list[str]:
    return re.findall(r"^Snippet \d+: (.*)$", prompt, re.MULTILINE)


def marks(snippet: str) -> list[str]:
    return re.findall(r"<<(.*?)>>", snippet)


def oracle(prompt: str) -> str:
    """It describes a feature by the first word that is marked, and judges by whether that word is there, and alone."""
    shown = snippets(prompt)
    if "Say in one short phrase" in prompt:
        return f"Let me think.\nLABEL: the word {marks(shown[0])[0].split()[0]}"
    word = re.search(r"the word (\S+)", prompt)
    assert word is not None
    if "those at which the feature fires" in prompt:
        right = [{part for mark in marks(line) for part in mark.split()} == {word[1]} for line in shown]
    else:
        right = [word[1] in line for line in shown]
    return f"{[int(value) for value in right]}"
