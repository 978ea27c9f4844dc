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
    """Dial it now; tell the outcome by `heard`, `dial_failed` or `dial_unclear`.

    `last`: all else is settled, and it is dead if it does not answer soon.
    """

    node: NodeId
    last: bool = False


@attrs.frozen
class AskOthers:
    """Ask connected peers to reach it.

    Tell the outcome by `others_reached`, `others_failed` or `others_unclear`; where there is
    nobody to ask, they failed. `last`: beside the last dial; only `others_reached` is told.
    """

    node: NodeId
    last: bool = False


@attrs.frozen
class Report:
    """Publish a signed dead report: it was found dead `at` that moment, in monotonic seconds.

    All reports that are asked for at one moment go together.
    """

    node: NodeId
    evidence: Evidence
    at: float


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
