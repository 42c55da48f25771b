"""A chat server on loopback that follows a script of faults and answers well once the script is at its end."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JAPANESE = "一週間は七日なので、14 * 7 = 98 となり、答えは 98 です。"


def completion(content: object, **more) -> dict:
    choice = {"index": 0, "finish_reason": more.pop("finish_reason", "stop"), "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "toy", "choices": [choice], "usage": usage} | more


def failure(message: str, **more) -> dict:
    return {"error": {"message": message, "type": "x", "param": None, "code": None} | more}


class FaultServer:
    """`script` holds what to do with the next requests (a name of `_FAULTS`); `asked` what was asked, as (question, seed)."""

    def __init__(self, *script: str, delay: float = 0.0):
        self.script = deque(script)
        self.delay = delay
        self.asked: list[tuple[str, int]] = []
        self.answered: list[tuple[str, int]] = []
        self.times: list[float] = []
        self.keys: list[str] = []
        self.bodies: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send(200, {"object": "list", "data": [{"id": "toy", "object": "model"}, {"id": "toy-large", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                try:
                    outer.handle(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with outer.lock:
                        outer.at_once -= 1

            def send(self, status: int, value: object, kind: str = "application/json", cut: bool = False, **headers):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                for name, text in headers.items():
                    self.send_header(name.replace("_", "-"), text)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self.wfile.flush()
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def handle(self, handler, body: dict) -> None:
        last = body["messages"][-1]["content"]
        question = re.search(r"English: (.*)", last)[1]
        answer = re.search(r"Answer: (.*)", last)
        what = (question, body.get("seed", 0))
        with self.lock:
            self.asked.append(what)
            self.times.append(time.monotonic())
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            fault = self.script.popleft() if self.script else "good"
        key = self.keys[-1].removeprefix("Bearer ")
        time.sleep(self.delay)
        if fault == "hang":
            time.sleep(1.0)
            handler.close_connection = True
        elif fault.startswith("redirect to "):
            handler.send(307, {}, Location=fault.split()[-1] + "/chat/completions")
        elif fault in _RAW:
            _RAW[fault](handler)
            handler.close_connection = True
        elif fault == "good":
            # Noted before it is sent: a client that has read it must find it noted.
            self.answered.append(what)
            words = f"Read the question with care and work it out. So the answer is {answer[1] if answer else 'unknown'}."
            handler.send(200, completion(words))
        elif fault == "newer model" and "max_tokens" in body:
            self.script.appendleft("newer model")
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            handler.send(400, failure(message, param="max_tokens", code="unsupported_parameter"))
        elif fault == "newer model" and "temperature" in body:
            self.script.appendleft("newer model")
            handler.send(400, failure("'temperature' does not support 0.", param="temperature", code="unsupported_value"))
        elif fault == "newer model":
            self.script.appendleft("newer model")
            handler.send(200, completion("Read the question with care and work it out. So that is it."))
        else:
            _FAULTS[fault](handler.send, key)


_FAULTS = {
    "429": lambda send, key: send(429, failure("slow down"), Retry_After="0.4"),
    "429 tomorrow": lambda send, key: send(429, failure(f"daily limit of {key}"), Retry_After="86400"),
    "quota": lambda send, key: send(429, failure("You exceeded your current quota.", code="insufficient_quota")),
    "500": lambda send, key: send(500, failure(f"oops {key}")),
    "503": lambda send, key: send(503, b"<html>busy</html>", "text/html"),
    "cut": lambda send, key: send(200, completion("half"), cut=True),
    "malformed": lambda send, key: send(200, b'{"choices": [{"mess'),
    "html": lambda send, key: send(200, b"<html>welcome</html>", "text/html"),
    "list": lambda send, key: send(200, []),
    "no choices": lambda send, key: send(200, {}),
    "odd types": lambda send, key: send(200, {"choices": [{"message": "hi"}]}),
    "parts": lambda send, key: send(200, completion([{"type": "text", "text": "hi"}])),
    "error inside": lambda send, key: send(200, failure(f"upstream is down for {key}")),
    "empty": lambda send, key: send(200, completion("")),
    "null": lambda send, key: send(200, completion(None)),
    "only thinking": lambda send, key: send(200, completion("<think>Let me see.")),
    "cut off": lambda send, key: send(200, completion("It begins well but", finish_reason="length")),
    "filtered": lambda send, key: send(200, completion(None, finish_reason="content_filter")),
    "no usage": lambda send, key: send(200, completion("Three bytes make about one token.", usage=None)),
    "surrogate": lambda send, key: send(200, json.dumps(completion("half \ud83d a pair")).encode()),
    "japanese": lambda send, key: send(200, completion(JAPANESE)),
    "echo": lambda send, key: send(200, completion(f"You sent the key {key} to me. So the answer is 98.")),
    "401": lambda send, key: send(401, failure(f"Incorrect API key provided: {key}.")),
    "400": lambda send, key: send(400, failure(f"context too long, said {key}")),
    "404": lambda send, key: send(404, failure("The model does not exist.")),
}


def _head(handler, *lines: str, status: str = "200 OK") -> None:
    handler.wfile.write("\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *lines, "", ""]).encode())


def _drip(handler) -> None:
    _head(handler, "Content-Length: 100000")
    for _ in range(2000):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def _endless(handler) -> None:
    _head(handler, "Transfer-Encoding: chunked")
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")


def _reset(handler) -> None:
    _head(handler, "Content-Length: 1000")
    # Closed with what came unread and no time to send: the client sees a reset, not an end.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _redirect(handler) -> None:
    _head(handler, f"Location: {handler.path}", "Content-Length: 0", status="307 Temporary Redirect")


def _bad_gzip(handler) -> None:
    _head(handler, "Content-Encoding: gzip", "Content-Length: 7")
    handler.wfile.write(b"no gzip")


_RAW = {
    "drip": _drip,
    "endless": _endless,
    "reset": _reset,
    "redirect loop": _redirect,
    "bad gzip": _bad_gzip,
    "no http": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "endless header": lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20),
    "wrong length": lambda handler: (_head(handler, "Content-Length: -5"), handler.wfile.write(b"{}")),
}


class serving:
    """`with serving("429", "500") as server:` a `FaultServer` that goes away with the block."""

    def __init__(self, *script: str, **more):
        self.fault = FaultServer(*script, **more)

    def __enter__(self) -> FaultServer:
        self.thread = threading.Thread(target=self.fault.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self.fault

    def __exit__(self, *_) -> None:
        self.fault.server.shutdown()
        self.fault.server.server_close()
        self.thread.join()
