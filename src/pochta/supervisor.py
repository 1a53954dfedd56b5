"""`pochta serve`: one supervisor that holds the listening sockets, and N workers started by exec that serve them.

Theory of operation. The supervisor locks data_dir, binds, drops privileges, copies the certificate, prepares the store,
and starts the workers. Each shares one socket pair with it, the life-line: down it go the settings (one line of JSON)
and, once the worker is ready, `NEW_PAIR` with two descriptors whenever the certificate was renewed; up it comes
`READY`; its end of file tells a worker that the supervisor is gone, however it died. The lock is passed on too, so that
no second server starts while any worker of the first still lives. A worker that dies is replaced on the same sockets,
with the same settings and the newest certificate that was good, whatever has become of the files.

Refuses to know what workers do. Single-threaded: one selector over the life-lines and the signals' wake-up socket.
"""

import fcntl
import os
import pwd
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from pochta import clock, config, log
from pochta.config import Settings
from pochta.errors import SetupError
from pochta.net.listen import BoundListener, bind_all, inherited_sockets, raise_nofile
from pochta.net.tls import WatchedPair, descriptor_path

STOP_S: Final = (
    9.0  # for workers to drain; with the kill and `finish` a stop ends within the 10 s that containers grant
)
SECOND_SIGNAL_S: Final = 0.5  # `timeout` and terminals send one twice; a person who means "at once" comes later
READY_S: Final = 60.0  # for a new set of workers; imports take under 1 s
LONG_LIFE_S: Final = 10.0  # a worker that dies younger died at once: its replacement waits
RETRY_S: Final = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)  # the waits of replacements, the last one for ever
LOCK_WAIT_S: Final = 2.0  # workers of a killed supervisor end within 1 s
PAIR_LOOK_S: Final = 10.0  # two stat() calls; a renewed certificate has weeks until the one before ends
READY: Final = b"R"
NEW_PAIR: Final = b"T"
# glibc raises its threshold for mmap once a large block is freed; the 256 KiB that uvloop sets aside for each TLS
# connection then come from pages that were touched before: 47 KiB for an idle connection instead of 25.
MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": "131072"}
WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "pochta.worker")  # -P: never import from the current folder

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class WorkerBrief(msgspec.Struct, frozen=True):
    """What a worker is told on its life-line: who it is, and which descriptor is which of the settings' listeners."""

    index: int
    fds: tuple[int, ...]
    settings: msgspec.Raw


def run(
    settings: Settings,
    *,
    ready_file: Path | None = None,
    prepare: Callable[[], None] | None = None,
    finish: Callable[[], None] | None = None,
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> int:
    """Serve until a signal; the exit status: 0 stopped, 1 when the first workers failed.

    `prepare` runs with privileges dropped before workers start, `finish` when all have ended and this process ends in
    good order. Workers that died or were killed do not keep it from running: what a killed process has committed is
    in the system's hands, and `finish` makes it durable; only a power cut, or our own death, leaves that in doubt.
    Raises: SetupError.
    """
    lock = lock_data_dir(settings)
    bound: list[BoundListener] = []
    pair: WatchedPair | None = None
    try:
        bound = bind_all(settings.listeners, inherited_sockets())
        connections = raise_nofile(settings.limits, settings.workers)
        if settings.user is not None:
            drop_privileges(settings.user)
        check_access(settings.data_dir, worker_command[0])
        limits = msgspec.structs.replace(settings.limits, connections=connections * settings.workers)
        settings = msgspec.structs.replace(settings, limits=limits)
        if settings.uses_tls:
            pair = WatchedPair(settings.tls.certificate, settings.tls.key)
        with _Supervisor(settings, bound, (lock, pair), ready_file, worker_command) as serving:
            if prepare is not None:
                prepare()
            status = serving.serve()
            if finish is not None:
                finish()
        log.event("serve.stopped", status=status)
        return status
    finally:
        for one in bound:
            one.socket.close()
        if pair is not None:
            pair.close()
        os.close(lock)


def lock_data_dir(settings: Settings) -> int:
    """The descriptor that holds data_dir's lock until it and every copy of it are closed.

    Raises: SetupError when another server holds it.
    """
    path = settings.data_dir / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise SetupError(
            f"{settings.data_dir}: no such folder; make one with `pochta init`, or correct data_dir in the settings"
        ) from None
    except OSError as error:
        raise SetupError(f"{path}: cannot be opened ({error.strerror}); check the owner of data_dir") from None
    until = clock.monotonic_s() + LOCK_WAIT_S
    with selectors.DefaultSelector() as nothing:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                if clock.monotonic_s() >= until or _is_alive(holder):
                    os.close(fd)
                    raise SetupError(
                        f"{settings.data_dir}: a server runs on it already (process {holder or 'unknown'});"
                        " stop that one, or name another data_dir"
                    ) from None
                nothing.select(0.05)
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    if settings.user is not None and os.geteuid() == 0:
        with suppress(KeyError):  # drop_privileges says it better
            os.fchown(fd, pwd.getpwnam(settings.user).pw_uid, -1)
    return fd


def _is_alive(pid: str) -> bool:
    # Not kill(pid, 0): one that is dead but that nobody has waited for (containers without init) would pass for alive.
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return False
    return state not in (b"Z", b"X")


def drop_privileges(user: str) -> None:
    """Become `user` with its groups, for good. Raises: SetupError when there is no such user, or we may not."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise SetupError(f'user: there is no system user "{user}"; make it with `useradd --system {user}`') from None
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        raise SetupError(f'user: only root can become "{user}"; start as root or as that user, or remove the line')
    try:
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:  # root without CAP_SETUID, as some containers have it
        raise SetupError(
            f'user: cannot become "{user}" ({error.strerror}); start as that user, and remove the line'
        ) from None


def check_access(data_dir: Path, program: str) -> None:
    """Look whether we may write to data_dir and what lies directly in it, and run the program of the workers.

    Raises: SetupError when not.
    """
    me = _user_name(os.geteuid())
    if not os.access(program, os.X_OK):
        raise SetupError(
            f"{program}: cannot be run by {me}; install Pochta where that user can read it, not in another's home"
        )
    needed = os.R_OK | os.W_OK
    paths = [data_dir]
    if os.access(data_dir, needed | os.X_OK):
        paths += sorted(data_dir.iterdir())
    for path in paths:
        if not os.access(path, needed | (os.X_OK if path.is_dir() else 0)):
            raise SetupError(
                f"{path}: belongs to {_user_name(path.stat().st_uid)}, and the server runs as {me};"
                f" give it the whole folder with `chown -R {me} {data_dir}`"
            )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def sd_notify(state: str) -> None:
    """Tell systemd, where it started us. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), b"\0" + address[1:].encode() if address[0] == "@" else address)
    except OSError as error:
        log.event("serve.notify.failed", error=error.strerror)


class _Worker:
    """A slot of the set: its process now, or the time of its next start."""

    __slots__ = ("failures", "index", "is_ready", "line", "pair_number", "process", "start_at", "started_at")

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: subprocess.Popen[bytes] | None = None
        self.line: socket.socket | None = None
        self.is_ready = False
        self.pair_number = 0  # of the certificate it was given
        self.failures = 0
        self.started_at = 0.0
        self.start_at = 0.0


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        bound: list[BoundListener],
        kept: tuple[int, WatchedPair | None],
        ready_file: Path | None,
        command: Sequence[str],
    ) -> None:
        self.settings, self.bound = settings, bound
        self.lock, self.pair = kept
        self.look_at = clock.monotonic_s() + PAIR_LOOK_S
        self.ready_file, self.command = ready_file, tuple(command)
        self.workers = [_Worker(index) for index in range(settings.workers)]
        self.has_been_ready = False
        self.status = 0
        self.kill_at: float | None = None  # set: stopping
        self.pending: list[int] = []
        self.selector = selectors.DefaultSelector()
        self.wake_in, self.wake_out = socket.socketpair()
        self.before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> "_Supervisor":
        for one in (self.wake_in, self.wake_out):
            one.setblocking(False)
        self.selector.register(self.wake_out, selectors.EVENT_READ)
        signal.set_wakeup_fd(self.wake_in.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            self.before[number] = signal.signal(number, lambda got, _: self.pending.append(got))
        if self.ready_file is not None:
            with suppress(OSError):  # of a server that was killed; `_announce` says whether we may write there
                self.ready_file.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()
            if worker.line is not None:
                worker.line.close()
        signal.set_wakeup_fd(-1)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.selector.close()
        self.wake_in.close()
        self.wake_out.close()
        if self.ready_file is not None and self.has_been_ready:
            with suppress(OSError):
                self.ready_file.unlink(missing_ok=True)

    def serve(self) -> int:
        """Start the workers and keep them until told to stop; the exit status."""
        ready_by = clock.monotonic_s() + READY_S
        while True:
            self._take_signals()
            now = clock.monotonic_s()
            self._reap(now)
            if self.kill_at is None:
                self._look_at_pair(now)
                if not self.has_been_ready and now >= ready_by:
                    self._fail("workers were not ready in time")
                for worker in self.workers:
                    if worker.process is None and worker.start_at <= now and self.kill_at is None:
                        self._start(worker, now)
            elif not any(worker.process for worker in self.workers):
                return self.status
            elif now >= self.kill_at:
                self._kill_rest()
            self._wait(now, ready_by)

    def _wait(self, now: float, ready_by: float) -> None:
        times = [worker.start_at for worker in self.workers if worker.process is None]
        if self.kill_at is not None:
            times = [self.kill_at]
        else:
            if not self.has_been_ready:
                times.append(ready_by)
            if self.pair is not None:
                times.append(self.look_at)
        timeout = max(0.0, min(times) - now) if times else None
        for key, _ in self.selector.select(timeout):
            if key.data is None:
                with suppress(BlockingIOError):
                    self.wake_out.recv(4096)
            else:
                self._hear(key.data)

    def _hear(self, worker: _Worker) -> None:
        assert worker.line is not None
        try:
            said = worker.line.recv(16)
        except OSError:
            said = b""
        if not said:  # it died, or closed its end: SIGCHLD says which
            self.selector.unregister(worker.line)
            return
        worker.is_ready = True
        self._pass_pair(worker)
        if not self.has_been_ready and all(one.is_ready for one in self.workers) and self.kill_at is None:
            self.has_been_ready = True
            self._announce()

    def _announce(self) -> None:
        ports = [f"{one.config.protocol} {one.shown_address}" for one in self.bound]
        if self.ready_file is not None:
            part = self.ready_file.with_name(self.ready_file.name + ".part")
            try:
                part.write_text("\n".join([str(os.getpid()), *ports, ""]))
                part.replace(self.ready_file)
            except OSError as error:
                raise SetupError(
                    f"{self.ready_file}: cannot be written ({error.strerror}); name another file with --ready-file"
                ) from None
        sd_notify(f"READY=1\nMAINPID={os.getpid()}")
        log.event("serve.ready", workers=len(self.workers), listeners=", ".join(ports))

    def _start(self, worker: _Worker, now: float) -> None:
        worker.started_at = now
        ours, theirs = socket.socketpair()
        fds = tuple(one.socket.fileno() for one in self.bound)
        environ = {**MALLOC, **os.environ}
        environ.pop("NOTIFY_SOCKET", None)
        settings = self.settings
        kept: tuple[int, ...] = (self.lock,)
        if self.pair is not None:
            certificate, key = self.pair.fds
            pair = {"certificate": descriptor_path(certificate), "key": descriptor_path(key)}
            settings = msgspec.structs.replace(settings, tls=msgspec.structs.replace(settings.tls, **pair))
            kept = (self.lock, certificate, key)
            worker.pair_number = self.pair.number
        brief = WorkerBrief(worker.index, fds, msgspec.Raw(config.encode(settings)))
        try:
            with theirs:
                worker.process = subprocess.Popen(
                    [*self.command, "--index", str(worker.index), "--life-line", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(*fds, theirs.fileno(), *kept),
                    env=environ,
                    process_group=0,  # a terminal's Ctrl-C comes to us alone, and goes on as SIGTERM
                )
        except OSError as error:  # no memory or too many processes: that may pass
            ours.close()
            self._died(worker, now, f"could not be started ({error.strerror})")
            return
        worker.line, worker.is_ready = ours, False
        with suppress(BrokenPipeError, ConnectionResetError):  # dead already: SIGCHLD is on its way
            ours.sendall(msgspec.json.encode(brief) + b"\n")
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def _reap(self, now: float) -> None:
        for worker in self.workers:
            process = worker.process
            if process is None or process.poll() is None:
                continue
            worker.process = None
            if worker.line is not None:
                with suppress(KeyError):
                    self.selector.unregister(worker.line)
                worker.line.close()
                worker.line = None
            if self.kill_at is None:
                self._died(worker, now, f"ended with status {process.returncode}", process.pid)

    def _died(self, worker: _Worker, now: float, how: str, pid: int | None = None) -> None:
        log.event("worker.died", worker=worker.index, pid=pid, error=how)
        if not self.has_been_ready:
            self._fail(f"worker {worker.index} {how} before it was ready")
            return
        worker.failures = worker.failures + 1 if now - worker.started_at < LONG_LIFE_S else 0
        worker.start_at = now + (RETRY_S[min(worker.failures, len(RETRY_S)) - 1] if worker.failures else 0.0)

    def _take_signals(self) -> None:
        pending, self.pending = self.pending, []
        for number in pending:
            if number == signal.SIGHUP:
                self._reload()
            elif number in (signal.SIGTERM, signal.SIGINT):
                if self.kill_at is None:
                    log.event("serve.stopping", signal=signal.Signals(number).name)
                    self._stop()
                elif clock.monotonic_s() - (self.kill_at - STOP_S) >= SECOND_SIGNAL_S:
                    self._kill_rest()

    def _reload(self) -> None:
        """Take the certificate as it is now: somebody asked for it, so that he hears of it either way."""
        if self.pair is None or self.kill_at is not None:
            log.event("serve.hup.ignored")  # nothing else is read anew while serving; a closed terminal sends it too
            return
        try:
            self.pair.take()
        except SetupError as error:
            log.event("tls.reload.refused", error=error)
            return
        self._pass_pairs()

    def _look_at_pair(self, now: float) -> None:
        if self.pair is None or now < self.look_at:
            return
        self.look_at = now + PAIR_LOOK_S
        try:
            if self.pair.take_if_changed():
                self._pass_pairs()
        except SetupError as error:
            log.event("tls.reload.refused", error=error)

    def _pass_pairs(self) -> None:
        for worker in self.workers:
            self._pass_pair(worker)

    def _pass_pair(self, worker: _Worker) -> None:
        """Give a worker the newest certificate; one that is not ready yet gets it then."""
        if self.pair is None or worker.line is None or not worker.is_ready or worker.pair_number == self.pair.number:
            return
        try:
            socket.send_fds(worker.line, [NEW_PAIR], self.pair.fds, socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError):
            return  # dead: SIGCHLD is on its way, and its successor starts with the newest
        except OSError as error:  # it has stopped reading, or no descriptors are left
            log.event("tls.reload.refused", worker=worker.index, error=error.strerror)
            return
        worker.pair_number = self.pair.number

    def _stop(self) -> None:
        self.kill_at = clock.monotonic_s() + STOP_S
        sd_notify("STOPPING=1")
        self._send(signal.SIGTERM, self.workers)

    def _fail(self, why: str) -> None:
        self.status = 1
        if self.kill_at is None:
            log.event("serve.failed", error=why)
            self._stop()

    def _kill_rest(self) -> None:
        left = [worker for worker in self.workers if worker.process is not None]
        log.event("serve.killed", workers=len(left))
        self._send(signal.SIGKILL, left)
        for worker in left:
            if worker.process is not None:
                worker.process.wait()

    def _send(self, number: signal.Signals, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            if worker.process is not None:
                worker.process.send_signal(number)
