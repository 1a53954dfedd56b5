"""`notify`: how long a delivery takes to reach a client that idles, on the same worker or on another."""

import smtplib
import time

from measure.figures import Figure, percentile
from measure.server import DOMAIN, HOST, BenchServer
from measure.wire import READ_BYTES, Imap, sample_message

GOAL_MS = 5.0
PAUSE_S = 0.01  # between deliveries, so that each is told alone


def notify(*, workers: int, deliveries: int, size: int) -> list[Figure]:
    """From the last byte of a message sent, and from its 250, to the EXISTS that the idling client reads."""
    with BenchServer(workers=workers) as server:
        server.start()
        imap = Imap(server.imap_port)
        imap.command(b"SELECT INBOX")
        imap.socket.sendall(b"t IDLE\r\n")
        imap.socket.recv(READ_BYTES)
        sent: list[float] = []
        told: list[float] = []
        with smtplib.SMTP(HOST, server.smtp_port) as smtp:
            smtp.ehlo()
            message = sample_message(size) + b".\r\n"
            for _ in range(deliveries):
                smtp.mail("sender@example.org")
                smtp.rcpt(f"u0@{DOMAIN}")
                smtp.docmd("DATA")
                began = time.perf_counter()
                smtp.send(message)
                smtp.getreply()
                answered = time.perf_counter()
                data = b""
                while b"EXISTS" not in data:
                    data += imap.socket.recv(READ_BYTES)
                now = time.perf_counter()
                sent.append((now - began) * 1e3)
                told.append((now - answered) * 1e3)
                time.sleep(PAUSE_S)
        imap.close()
    detail: dict[str, object] = {
        "p99": round(percentile(sent, 0.99), 2),
        "after_250_p50": round(percentile(told, 0.5), 2),
        "after_250_p99": round(percentile(told, 0.99), 2),
        "n": deliveries,
        "workers": workers,
    }
    return [Figure("notify", percentile(sent, 0.5), "ms p50", GOAL_MS, True, detail)]
