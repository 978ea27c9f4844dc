"""Words with a meaning that nodes tell each other: why something is refused, or ends.

docs/protocol.md lists them.
"""

import enum


class Reason(enum.StrEnum):
    """Why a handshake is refused: the codes that both sides log."""

    VERSION = "version"
    NETWORK = "network"
    NETWORK_KEY = "network_key"
    RECORD = "record"
    DIFFICULTY = "difficulty"
    ONESELF = "self"
    IDENTITY_CLASH = "identity_clash"
    IDENTITY_TAKEN = "identity_taken"
    MAN_IN_THE_MIDDLE = "man_in_the_middle"
    SIGNATURE = "signature"
    PROTOCOL = "protocol"
    FULL = "full"
    DUPLICATE = "duplicate"


# Reasons that say that two nodes are not of one network, as they are configured now.
APART = frozenset({Reason.VERSION, Reason.NETWORK, Reason.NETWORK_KEY, Reason.DIFFICULTY})


# The reasons in a goodbye when the node stops, and when a user asked for the end.
LEAVING = "leaving"
ON_REQUEST = "disconnected on request"


class DialBackOutcome(enum.StrEnum):
    """What came of a dial back."""

    REACHED = "reached"
    REFUSED = "refused"
    SILENT = "silent"
