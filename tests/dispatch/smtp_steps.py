"""An SMTP server that calls a function at each step of a conversation, in this process or in one of its own.

`python -m tests.dispatch.smtp_steps PORT FILE STEP SIGNAL` runs a server that sends itself the signal when it first
reaches the step. It prints its port, and appends the Message-ID of each accepted message to the file, one per line.
"""

from __future__ import annotations

import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

STEPS = ("connected", "introduced", "sender", "recipient", "data", "half", "dot", "taken", "answered")
"""The steps: before it answers the connection, EHLO, MAIL, RCPT and DATA; when half of the message has come, and all of
it with the final dot; when the message is taken, and when that is answered."""

_ID = re.compile(rb"^message-id: <([0-9a-f]{32})@", re.IGNORECASE | re.MULTILINE)


class SmtpSteps(socketserver.ThreadingTCPServer):
    """The server.

    Args:
        port: 0 for a free one.
        reach: called with each step that a conversation reaches.
        take: called with the id of each message that is taken.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, reach: Callable[[str], None], take: Callable[[str], None]) -> None:
        super().__init__(("127.0.0.1", port), _Conversation)
        self.reach = reach
        self.take = take
        self.port: int = self.server_address[1]  # type: ignore[assignment]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve in a thread."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Conversation(socketserver.StreamRequestHandler):
    server: SmtpSteps

    def handle(self) -> None:
        """Hold a conversation, until the client ends it."""
        try:
            self._talk()
        except OSError:
            return

    def _talk(self) -> None:
        reach = self.server.reach
        reach("connected")
        self._say("220 ready")
        while command := self.rfile.readline():
            match command.upper().split(b" ")[0].split(b":")[0].strip():
                case b"EHLO":
                    reach("introduced")
                    self._say("250 hello")
                case b"MAIL":
                    reach("sender")
                    self._say("250 OK")
                case b"RCPT":
                    reach("recipient")
                    self._say("250 OK")
                case b"DATA":
                    reach("data")
                    self._say("354 go on")
                    if not self._message():
                        return
                case b"QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 OK")

    def _message(self) -> bool:
        """Take a message; return whether it was whole."""
        content = b""
        while (text := self.rfile.readline()) != b".\r\n":
            if not text:
                return False
            if not content:
                self.server.reach("half")
            content += text
        self.server.reach("dot")
        found = _ID.search(content)
        assert found is not None, content
        self.server.take(found[1].decode())
        self.server.reach("taken")
        self._say("250 taken")
        self.server.reach("answered")
        return True

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def process(file: Path, step: str = "", number: int = 0, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own; yields it and its port."""
    command = [sys.executable, "-m", "tests.dispatch.smtp_steps", *map(str, (port, file, step or "-", number))]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as found:
        assert found.stdout is not None
        try:
            yield found, int(found.stdout.readline())
        finally:
            found.kill()


def main(port: str, file: str, step: str, number: str) -> None:
    """Serve until killed."""
    descriptor = os.open(file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    left = [step]

    def reach(found: str) -> None:
        if found in left:
            left.clear()
            os.kill(os.getpid(), int(number))
            time.sleep(1.0)  # it takes this thread a moment to stop, or to die

    server = SmtpSteps(int(port), reach, lambda id: os.write(descriptor, f"{id}\n".encode()) and None)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
