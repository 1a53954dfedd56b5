"""A Kerberos realm of the test's own: MIT's KDC from Debian on loopback, with people and services in it."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

REALM: Final = "EXAMPLE.ORG"
PASSWORD: Final = "kerberos"
START_TRIES: Final = 400  # of 25 ms

_KRB5: Final = """[libdefaults]
 default_realm = {realm}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
 default_ccache_name = FILE:{folder}/cache
[realms]
 {realm} = {{
  kdc = 127.0.0.1:{port}
 }}
[domain_realm]
 localhost = {realm}
"""
_KDC: Final = """[kdcdefaults]
 kdc_listen = ""
 kdc_tcp_listen = 127.0.0.1:{port}
[realms]
 {realm} = {{
  database_name = {folder}/principal
  key_stash_file = {folder}/stash
  acl_file = {folder}/acl
 }}
"""


class Realm:
    """A running KDC; `environment` is for its clients, `keytab` holds the keys of the services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keytab = folder / "keytab"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        values = {"realm": REALM, "folder": folder, "port": self.port}
        (folder / "krb5.conf").write_text(_KRB5.format(**values))
        (folder / "kdc.conf").write_text(_KDC.format(**values))
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "KRB5_CONFIG": str(folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{folder}/cache",
            "KRB5RCACHEDIR": str(folder),
        }

    def run(self, *command: str, said: str = "") -> None:
        """Run a program of Kerberos to its end."""
        subprocess.run(
            command, env=self.environment, input=said, text=True, check=True, capture_output=True, timeout=60
        )

    def add(self, *principals: str, password: str = PASSWORD) -> None:
        """Make people, who sign in with a password."""
        for one in principals:
            self.run("kadmin.local", "-q", f"addprinc -pw {password} {one}")

    def add_service(self, *principals: str) -> None:
        """Make services, whose keys go to `keytab`."""
        for one in principals:
            self.run("kadmin.local", "-q", f"addprinc -randkey {one}")
            self.run("kadmin.local", "-q", f"ktadd -k {self.keytab} {one}")

    def sign_in(self, principal: str, password: str = PASSWORD) -> None:
        """Get a ticket for somebody, into the cache that `environment` names."""
        self.run("kinit", principal, said=f"{password}\n")


@contextmanager
def realm(folder: Path) -> Iterator[Realm]:
    """A KDC, while the block lasts."""
    made = Realm(folder)
    made.run("kdb5_util", "create", "-s", "-P", "master", "-r", REALM)
    process = subprocess.Popen(
        ["krb5kdc", "-n"], env=made.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _wait_for(process, made.port)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=20)
        assert process.stderr is not None
        process.stderr.close()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(START_TRIES):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            try:
                process.wait(timeout=0.025)
            except subprocess.TimeoutExpired:
                continue
            assert process.stderr is not None
            raise RuntimeError(f"the KDC ended: {process.stderr.read().decode()}") from None
        return
    raise RuntimeError("the KDC does not answer")
