"""A worker that answers each connection with one line of JSON about itself, and misbehaves as $FAKE_WORKER says."""

import json
import os
import selectors
import signal
import socket
import sys


def main() -> None:
    line = socket.socket(fileno=int(sys.argv[sys.argv.index("--life-line") + 1]))
    brief = json.loads(line.makefile("rb").readline())
    mode, _, argument = os.environ.get("FAKE_WORKER", "").partition(":")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else lambda *_: sys.exit(0))
    if mode == "fails":
        sys.exit(3)
    if mode == "gate" and brief["index"] == 1:
        with open(argument, "rb") as gate:  # a pipe: waits for whoever opens its other end
            gate.read()
    line.sendall(b"R")
    settings = brief["settings"]
    about = {
        "index": brief["index"],
        "pid": os.getpid(),
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "connections": settings["limits"]["connections"],
        "notify": "NOTIFY_SOCKET" in os.environ,
        "listen": "LISTEN_FDS" in os.environ,
    }
    if any(one["tls"] != "none" for one in settings["listener"]):
        with open(settings["tls"]["certificate"]) as certificate:
            about["certificate"] = certificate.read()
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        for fd in brief["fds"]:
            selector.register(socket.socket(fileno=fd), selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is line:
                    said, fds, _, _ = socket.recv_fds(line, 1, 2)
                    if not said:  # the supervisor is gone
                        return
                    about["certificate"], about["key"] = [os.pread(fd, 100_000, 0).decode() for fd in fds]
                    sys.stderr.write(f"now test.pair index={brief['index']}\n")
                    continue
                try:
                    peer, _ = key.fileobj.accept()  # type: ignore[union-attr]
                except BlockingIOError:
                    continue
                with peer:
                    peer.sendall(json.dumps(about).encode() + b"\n")


if __name__ == "__main__":
    main()
