"""Every error that p2pd raises on purpose.

::

    P2PError
    |- ConfigError           the user's configuration or flags are wrong
    |- StartError            the node can't start here (address in use, state locked, ...)
    |- BadMessage            bytes from outside that are not what they should be
    |- PeerError             one peer's doing; ends at most its own connection
    |  |- HandshakeRefused   either side refused the other, with a reason
    |  |- RequestRefused     a peer does not do what it was asked
    |  |- ConnectionLost     the connection ended before the answer came
    |  `- RequestTimedOut    a peer did not answer in time
    |- DialFailed            no connection could be made to an address
    |  `- DialTimedOut       nothing came from there in time
    |- NotFound              no such key or peer
    |- AmbiguousPeer         a prefix or name fits several peers
    |- VersionConflict       `--if-version` named another version than the one there
    |- TooFewReplicas        fewer replicas answered than the quorum needs
    |- StoreError            the disk refused
    |  `- StoreFull          the configured size is reached
    |- InvalidRequest        a control request with wrong parameters
    |- Busy                  a bound is reached; trying later helps
    |  `- Exhausted          the process has no file descriptors or memory left
    `- DaemonUnreachable     (client side) nobody answers on the control socket

`code` is the stable name that scripts see in JSON; `exit_code` is what `p2pctl` returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    # p2pctl starts with this module: what it does not need stays out.
    from p2pd.ids import NodeId


class P2PError(Exception):
    """The root: what happened, to what, and what to do about it, in one line."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1


class ConfigError(P2PError):
    """The configuration or a flag is wrong.

    `problems` holds one line for each mistake, each beginning with the path of its key.
    """

    code = "config"
    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(P2PError):
    """The node can't start here."""

    code = "start"


class BadMessage(P2PError):
    """Bytes from outside that are not what they should be; the only error of the codec."""

    code = "bad_message"


class PeerError(P2PError):
    """Caused by one peer; ends at most that peer's connection."""

    code = "peer"


class RequestRefused(PeerError):
    """A peer declines to do what it was asked; `reason` is the code it gives."""

    code = "request_refused"

    def __init__(self, message: str, *, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason


class HandshakeRefused(PeerError):
    """One of the two sides refused the other.

    `reason` is the code that both sides log, `by_peer` says whose decision it was,
    `claimed` is the node ID that the other side named, and `proven` whether it proved it.
    """

    code = "handshake_refused"

    def __init__(self, reason: str, message: str, *, by_peer: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.by_peer = by_peer
        self.claimed: NodeId | None = None
        self.proven = False


class ConnectionLost(PeerError):
    """The connection ended before the answer came."""

    code = "connection_lost"


class RequestTimedOut(PeerError):
    """A peer did not answer in time."""

    code = "timeout"
    exit_code = 5


class DialFailed(P2PError):
    """No connection could be made to an address.

    `refused`: the host is there, and nothing listens on the port.
    """

    code = "dial_failed"

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class DialTimedOut(DialFailed):
    """Nothing came from an address, or not all of a handshake, within `dial_timeout`."""

    code = "dial_timeout"
    exit_code = 5


class NotFound(P2PError):
    """No such key or peer."""

    code = "not_found"
    exit_code = 3


class AmbiguousPeer(P2PError):
    """A prefix or a name fits several peers."""

    code = "ambiguous_peer"
    exit_code = 2


class VersionConflict(P2PError):
    """What is stored is not the version that the writer named."""

    code = "version_conflict"


class TooFewReplicas(P2PError):
    """Fewer replicas answered than the quorum needs."""

    code = "too_few_replicas"
    exit_code = 5


class StoreError(P2PError):
    """The disk refused."""

    code = "store"


class StoreFull(StoreError):
    """The configured size of the store is reached."""

    code = "store_full"


class InvalidRequest(P2PError):
    """A control request with wrong parameters."""

    code = "invalid_request"
    exit_code = 2


class Busy(P2PError):
    """A bound is reached; trying again later helps."""

    code = "busy"


class Exhausted(Busy):
    """The process has no file descriptors or memory left; a free slot would not help."""


class DaemonUnreachable(P2PError):
    """Nobody answers on the control socket.

    `denied`: this user may not connect, but a daemon may be listening. `absent`: none is.
    """

    code = "daemon_unreachable"
    exit_code = 4

    def __init__(self, message: str, *, denied: bool = False, absent: bool = False) -> None:
        super().__init__(message)
        self.denied = denied
        self.absent = absent
