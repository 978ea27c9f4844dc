"""What can be believed of a node, and what the liveness decision asks of its shell."""

from enum import StrEnum

import attrs

from p2pd.ids import NodeId


class Liveness(StrEnum):
    """What we believe of a node."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Evidence(StrEnum):
    """Why a node is held dead: its address refused a dial, or it did not answer."""

    REFUSED = "refused"
    SILENT = "silent"


@attrs.frozen
class Redial:
    """Dial the node now; tell the outcome by `heard`, `dial_failed` or `dial_unclear`.

    `last`: everything else is settled, and the node is dead if it does not answer soon.
    """

    node: NodeId
    last: bool = False


@attrs.frozen
class AskOthers:
    """Ask connected peers to reach the node.

    Tell the outcome by `others_reached`, `others_failed` or `others_unclear`; if there is nobody to
    ask, they failed. `last`: asked alongside the last dial; only `others_reached` is told.
    """

    node: NodeId
    last: bool = False


@attrs.frozen
class Report:
    """Publish a signed dead report: the node was found dead `at` this time, monotonic.

    All reports that are asked for at the same moment go together.
    """

    node: NodeId
    evidence: Evidence
    at: float


@attrs.frozen
class Declare:
    """The verdict: the node is dead. By `reporters` alone, the evidence is `SILENT`."""

    node: NodeId
    evidence: Evidence
    reporters: tuple[NodeId, ...]


@attrs.frozen
class Revive:
    """The node was suspect or dead, and is alive."""

    node: NodeId


Action = Redial | AskOthers | Report | Declare | Revive
