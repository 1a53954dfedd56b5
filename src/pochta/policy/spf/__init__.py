"""Sender Policy Framework: whether a client may send mail for a domain. `record` reads, `check` evaluates."""

from pochta.policy.spf.check import check_host

__all__ = ["check_host"]
