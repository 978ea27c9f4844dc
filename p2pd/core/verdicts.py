"""What can be believed of a node, and what the decision who is alive asks of its shell."""

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
    """Why a node is held dead: its address refused a dial, or nothing came from it."""

    REFUSED = "refused"
    SILENT = "silent"


@attrs.frozen
class Redial:
    """Dial it now; tell the outcome by `heard` or `dial_failed`."""

    node: NodeId


@attrs.frozen
class AskOthers:
    """Ask connected peers to reach it; tell the outcome by `others_reached` or `others_failed`.

    Where there is nobody to ask, they failed.
    """

    node: NodeId


@attrs.frozen
class Report:
    """Publish a signed dead report."""

    node: NodeId
    evidence: Evidence


@attrs.frozen
class Declare:
    """The verdict: it is dead. By `reporters` alone, the evidence is `SILENT`."""

    node: NodeId
    evidence: Evidence
    reporters: tuple[NodeId, ...]


@attrs.frozen
class Revive:
    """It was suspect or dead, and is alive."""

    node: NodeId


Action = Redial | AskOthers | Report | Declare | Revive
