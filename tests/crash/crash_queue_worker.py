"""Workers that a test may kill, quickly made: `python crash_queue_worker.py SETTINGS` forks one for each byte it reads.

For each: its pid on standard output, and an empty line when it is gone. A worker is what `pochta serve` runs. The end
of standard input (the test is gone) ends all.
"""

import asyncio
import os
import select
import signal
import sys
import traceback

from pochta import config
from pochta.app import run_worker
from pochta.config import Settings
from pochta.net.listen import bind_all
from pochta.store import setup

POLL_S = 0.005


def serve(settings: Settings) -> None:
    setup.prepare(settings.data_dir)
    bound = bind_all(settings.listeners)
    asyncio.run(run_worker(settings, 0, bound, lambda: None, asyncio.Event(), asyncio.Queue()))


def main() -> None:
    settings = config.load(sys.argv[1])
    while os.read(0, 1):
        pid = os.fork()
        if not pid:
            try:
                serve(settings)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        print(pid, flush=True)  # noqa: T201 - told to the test
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if select.select([0], [], [], POLL_S)[0]:  # nobody asks for another one while this one lives
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
        print(flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
