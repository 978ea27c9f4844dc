"""What the end of a connection says of the peer."""

import enum


class Ending(enum.StrEnum):
    """What the end of a connection says of the peer.

    It left (its node stops), it broke (gone without a word), it was silent for too long, or
    nothing: one of the two did not want the connection any more.
    """

    LEFT = "left"
    BROKEN = "broken"
    SILENT = "silent"
    UNWANTED = "unwanted"
