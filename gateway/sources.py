"""Where a request comes from: the network address that limits count it against."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import Scope

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_FORWARDED_FOR = b"x-forwarded-for"
# More proxies than any real chain has. Addresses beyond them are not read.
_MAX_HOPS = 16
# The longest spelling of an address with a zone and a port has about 70 characters.
_MAX_LENGTH = 100
# Providers give each customer a whole /64, so one client has 2^64 addresses.
_IPV6_PREFIX = 64
_UNKNOWN = "unknown"
# Addresses in each of three caches, which take 4 MB together.
_MAX_CACHED = 5_000


class Sources:
    """Finds the source of a request: an IPv4 address or an IPv6 /64 network.

    `X-Forwarded-For` counts only if `trusted` contains the proxy that sent it. It is read from
    right to left, because each proxy appends the address of its client: the first address that is
    not a trusted proxy is the source. The client itself wrote what stands to the left of it.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        self._is_trusted = lru_cache(maxsize=_MAX_CACHED)(self._is_trusted_uncached)

    def of(self, scope: Scope) -> str:
        """Returns the source; "unknown" if the server knows no address (a Unix socket)."""
        address = self.address_of(scope)
        return _UNKNOWN if address is None else _source(address)

    def address_of(self, scope: Scope) -> Address | None:
        """Returns the whole address of the client, if it is known."""
        client = scope.get("client")
        hop = _address(client[0]) if client else None
        if hop is not None and self._trusted and self._is_trusted(hop):
            return self._before(hop, scope)
        return hop

    def _before(self, hop: Address, scope: Scope) -> Address:
        """Returns the client of the trusted proxy `hop`.

        If an entry is no address, the trusted proxy that wrote it is the best that is known.
        """
        for text in _forwarded_for(scope):
            client = _address(text)
            if client is None:
                return hop
            hop = client
            if not self._is_trusted(hop):
                return hop
        return hop

    def _is_trusted_uncached(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _forwarded_for(scope: Scope) -> list[str]:
    """The last entries of the header, from right to left. A header that is sent several times
    counts as one list."""
    found: list[str] = []
    for name, value in reversed(scope["headers"]):
        if name == _FORWARDED_FOR:
            entries = value.rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]
            found += (entry.decode("latin-1").strip() for entry in reversed(entries))
            if len(found) >= _MAX_HOPS:
                break
    return found[:_MAX_HOPS]


def _address(text: str) -> Address | None:
    """Reads an address as proxies write it: also in brackets, with a port or with a zone."""
    return None if len(text) > _MAX_LENGTH else _parsed(text)


@lru_cache(maxsize=_MAX_CACHED)
def _parsed(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=_MAX_CACHED)
def _source(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _IPV6_PREFIX), strict=False))
