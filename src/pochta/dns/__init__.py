"""Questions to the domain name system, and the one way in which they are asked.

Everybody who needs DNS takes a `Resolver`, so that tests answer from zones of their own; the one that asks the network
is `DnsResolver`.
"""

from pochta.dns.question import Answer, DnsError, Mx, Resolver, Srv
from pochta.dns.resolver import DnsResolver

__all__ = ["Answer", "DnsError", "DnsResolver", "Mx", "Resolver", "Srv"]
