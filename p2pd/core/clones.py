"""Two processes with one identity: found as each takes the place of the other.

A node that restarts comes as a new process each time. Where one that was replaced comes back, two
run at once.
"""

import attrs

from p2pd.core.bounded import BoundedTable
from p2pd.ids import NodeId

# Peers whose replaced processes are remembered, and how many of each, the last ones.
MAX_PEERS = 1024
MAX_INSTANCES = 8


@attrs.frozen
class _Replaced:
    """The processes of a peer that later ones replaced; `told`: it was reported that two run."""

    instances: tuple[bytes, ...] = ()
    told: bool = False


class Clones:
    """Remembers which processes of each peer were replaced; `instance` tells processes apart."""

    def __init__(self) -> None:
        self._replaced = BoundedTable[NodeId, _Replaced](MAX_PEERS)

    def replaced(self, peer: NodeId, instance: bytes) -> None:
        """Note that another process of a peer took the place of this one."""
        before = self._replaced.get(peer, _Replaced())
        instances = (*before.instances, instance)[-MAX_INSTANCES:]
        self._replaced[peer] = attrs.evolve(before, instances=instances)

    def was_replaced(self, peer: NodeId, instance: bytes) -> bool:
        """Whether this process of a peer has been replaced: where it comes back, two run."""
        return instance in self._replaced.get(peer, _Replaced()).instances

    def is_news(self, peer: NodeId) -> bool:
        """Whether it was not reported yet that two processes of a peer run; from now on, it was."""
        before = self._replaced.get(peer, _Replaced())
        self._replaced[peer] = attrs.evolve(before, told=True)
        return not before.told
