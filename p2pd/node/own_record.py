"""What this node says about itself, signed anew whenever that changes."""

from p2pd.address import Address
from p2pd.node.env import Env
from p2pd.wire.messages import PeerRecord, Signed


class OwnRecord:
    """The peer record of this node; `signed` is the current one."""

    def __init__(
        self, env: Env, name: str, listening: list[Address], roles: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.roles = roles
        self.listening = listening
        self.addresses: list[Address] = []
        self._env = env
        self._sequence = 0
        self.signed = self._sign()

    def update(self, addresses: list[Address]) -> bool:
        """Take the current addresses; returns whether they differ from those before."""
        if addresses == self.addresses:
            return False
        self.addresses = addresses
        self.signed = self._sign()
        return True

    def _sign(self) -> Signed:
        now = self._env.wall_ms()
        # The clock makes it grow across restarts, the increment within a millisecond.
        self._sequence = max(now, self._sequence + 1)
        return self._env.identity.vouch(
            PeerRecord(
                public_key=self._env.identity.public_key,
                nonce=self._env.identity.nonce,
                sequence=self._sequence,
                name=self.name,
                addresses=tuple(map(str, self.addresses)),
                roles=self.roles,
                issued=now,
            )
        )
