"""A server that stops while it sends: what the other one is about to take is not sent again after the start."""

import smtplib
import socket
import threading
from pathlib import Path

from pochta.config import Queue, Route
from pochta.store import queue_view
from pochta.store.store import Store
from pochta.testing import Server

ANNA = "anna@example.org"
ANSWERS = {b"EHLO": b"250 sink\r\n", b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}


class Sink:
    """Takes messages, one connection after the other; their end is answered when `may_answer` is set."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.messages = 0
        self.has_whole, self.may_answer = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listening.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                self._talk(peer, lines)

    def _talk(self, peer: socket.socket, lines: object) -> None:
        peer.sendall(b"220 sink\r\n")
        is_message = False
        for line in lines:  # type: ignore[attr-defined]  # a binary file
            if is_message and line == b".\r\n":
                is_message = False
                self.messages += 1
                self.has_whole.set()
                self.may_answer.wait(20)
                peer.sendall(b"250 taken\r\n")
            elif not is_message:
                verb = line[:4].upper()
                is_message = verb == b"DATA"
                peer.sendall(ANSWERS.get(verb, b"250 ok\r\n"))


async def waiting(store: Store) -> tuple[int, int]:
    return await store.read(0, queue_view.count)


def test_a_stop_waits_for_the_last_reply(tmp_path: Path) -> None:
    sink = Sink()
    settings = {"routes": (Route(name="sink", hosts=(f"[127.0.0.1]:{sink.port}",)),), "queue": Queue()}
    with Server(data_dir=tmp_path, **settings) as server:
        server.add_account(ANNA, "secret")
        with smtplib.SMTP(server.host, server.submission_port) as smtp:
            smtp.login(ANNA, "secret")
            smtp.sendmail(ANNA, ["bert@b.test"], f"From: {ANNA}\r\n\r\nhi\r\n")
        assert sink.has_whole.wait(20)
        threading.Timer(0.3, sink.may_answer.set).start()
        client = socket.create_connection((server.host, server.imap_port))  # somebody to be drained
        client.recv(1000)
    client.close()
    with Server(data_dir=tmp_path, **settings) as server:
        while server.run(waiting) != (0, 0):
            pass
    sink.listening.close()
    assert sink.messages == 1
