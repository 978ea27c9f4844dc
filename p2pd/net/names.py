"""How it is said that a name can't be looked up."""

import socket

from p2pd.errors import DialFailed


def unresolved(host: str, error: OSError | UnicodeError) -> DialFailed:
    """Say what `getaddrinfo` could not do, and where to look."""
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    # No name server answered: that says nothing about the name.
    unanswered = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
    culprit = "name service of this host" if unanswered else "name"
    return DialFailed(f"can't resolve {host}: {reason}; check the {culprit}")
