"""Runs a supervisor as its own process, and before it what `argv[1]` (JSON) orders of its surroundings."""

import json
import os
import resource
import sys
from pathlib import Path

from pochta import config, log, supervisor
from pochta.errors import SetupError


def main() -> int:
    order = json.loads(sys.argv[1])
    "".encode("unicode_escape")  # the log's; a user to become may not be able to read the folder of this interpreter
    if order["inherited_fd"] is not None:  # as sd_listen_fds(3) has it: from 3 on, for this very process
        os.dup2(order["inherited_fd"], 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    if order["nofile"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["nofile"], order["nofile"]))
        if os.geteuid() == 0:  # root may lift what others may not
            resource.setrlimit = lambda *_: None  # type: ignore[assignment]
    for name, value in order["constants"].items():
        setattr(supervisor, name, value)
    try:
        return supervisor.run(
            config.load(order["config"]),
            ready_file=Path(order["ready_file"]),
            prepare=lambda: log.event("test.prepare", uid=os.geteuid()),
            finish=lambda: log.event("test.finish"),
            worker_command=order["worker"],
        )
    except SetupError as error:
        print(f"pochta: {error}", file=sys.stderr)  # noqa: T201 - as the command line says it
        return 2


if __name__ == "__main__":
    sys.exit(main())
