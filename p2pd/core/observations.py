"""What the doctor looks at: plain facts of one node at one moment, for `core.diagnosis`."""

import attrs

from p2pd.wire.reasons import DialBackOutcome

# A refusal that this node saw as one of the peers of which two run with one identity.
CLONED = "cloned"


@attrs.frozen
class LinkSeen:
    """One multicast group on one interface.

    `trouble` is why it can't be joined or sent to, `port_taken` whether that is because another
    program has the port; `listening` whether this node listens on an address there, without which
    it sends nothing. `looped`: its own beacon came back. `hosts` and `foreign` are the hosts from
    which nodes of this network and of others answered; `own_hosts` are those of `hosts` that are
    this very host.
    """

    group: str
    trouble: str | None = None
    port_taken: bool = False
    listening: bool = True
    looped: bool = True
    hosts: tuple[str, ...] = ()
    own_hosts: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@attrs.frozen
class InterfaceSeen:
    """One interface that is up; `used` is whether the configuration has it used."""

    name: str
    addresses: tuple[str, ...] = ()
    loopback: bool = False
    used: bool = True
    links: tuple[LinkSeen, ...] = ()


@attrs.frozen
class TargetSeen:
    """One bootstrap or seed address of the configuration, as written there.

    `unresolved` is why its name has no address. `answered` is the address at which a node answered,
    None where none did; then `failure` is what the last address said, and `reason` its code:
    `dial_failed`, `connection_lost`, or why either side refused the other.
    """

    text: str
    seed: bool
    unresolved: str | None = None
    answered: str | None = None
    failure: str = ""
    reason: str = ""


@attrs.frozen
class RefusalSeen:
    """A handshake that failed: the code of why, with whom, how many seconds ago."""

    reason: str
    address: str
    seconds_ago: float


@attrs.frozen
class DialSeen:
    """What came of a peer's dial back.

    `own`: whether the host of `address` is one of this host's own addresses.
    """

    peer: str
    address: str
    outcome: DialBackOutcome
    own: bool = True


@attrs.frozen
class ClockSeen:
    """By how many seconds a peer's clock is ahead of this node's."""

    peer: str
    ahead: float


@attrs.frozen
class EchoSeen:
    """Whether a message of several packets came back from a peer that answers short ones."""

    peer: str
    came_back: bool


@attrs.frozen
class DiskSeen:
    """The disk under the state directory; see `store.base.Disk`.

    `used` is the bytes of all records there, of the `most` allowed (`store.max_bytes`; 0 where that
    is not known), `largest` those of the largest value.
    """

    directory: str
    free: int
    refusal: str | None = None
    full: bool = False
    used: int = 0
    most: int = 0
    largest: int = 0


@attrs.frozen
class Observations:
    """All of it. `patterns` are `discovery.multicast.interfaces`; `listening` says on what.

    `connected` and `known` count peers; `other_hosts` are the hosts of connected peers, except this
    one; `unreachable` says why some peers are not connected.
    """

    network: str
    multicast_port: int
    listening: tuple[str, ...] = ()
    multicast: bool = True
    patterns: tuple[str, ...] = ()
    interfaces: tuple[InterfaceSeen, ...] = ()
    targets: tuple[TargetSeen, ...] = ()
    refusals: tuple[RefusalSeen, ...] = ()
    dials: tuple[DialSeen, ...] = ()
    clocks: tuple[ClockSeen, ...] = ()
    echoes: tuple[EchoSeen, ...] = ()
    disk: DiskSeen = DiskSeen("", 0)
    connected: int = 0
    other_hosts: tuple[str, ...] = ()
    known: int = 0
    unreachable: tuple[str, ...] = ()
