"""Which of two connections between the same two nodes is kept.

Both sides decide independently, and may see the connections in different order, but must keep the
same one. So the rule looks only at what both know: who dialled, the dialler's count of its dials,
and the process at the other end.
"""

import attrs

from p2pd.ids import NodeId


@attrs.frozen
class Link:
    """What both ends know of a connection.

    `instance` tells processes of the peer apart; `dial_number` is the dialler's count.
    """

    dialler: NodeId
    dial_number: int
    peer_instance: bytes


def new_one_stays(new: Link, old: Link, own_id: NodeId, peer_id: NodeId) -> bool:
    """Whether the new connection to `peer_id` replaces the old one.

    - Another process of the peer: it restarted, the old connection is dead.
    - Both by one dialler: its later dial stays. It would not have dialled again unless it had
      lost the earlier connection, or did not know yet whom that one led to.
    - Each dialled the other: what the node with the smaller ID dialled stays.
    """
    if new.peer_instance != old.peer_instance:
        return True
    if new.dialler == old.dialler:
        return new.dial_number > old.dial_number
    return new.dialler == min(own_id, peer_id)
