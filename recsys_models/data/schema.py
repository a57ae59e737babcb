"""The one form every behaviour log is brought into, and the names of its columns.

A log is a polars frame with these columns, whatever file it came from:

=============  ========  ==================================================================================
column         dtype     meaning
=============  ========  ==================================================================================
``user_id``    String    as written in the file, spaces at the ends removed; null where missing
``item_id``    String    the same
``timestamp``  Float64   Unix seconds, UTC; null where missing
``event``      String    optional: "view", "buy", ...
``value``      Float64   optional: a rating, a dwell time, a price
``row``        Int64     1 for the first row of data in the file; decides ties and names rows in messages
=============  ========  ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

USER = "user_id"
ITEM = "item_id"
TIMESTAMP = "timestamp"
EVENT = "event"
VALUE = "value"
ROW = "row"

TITLE = "title"
TEXT = "text"
ATTRIBUTES = "attributes"

EARLIEST_READABLE = -62_135_596_800.0
"""0001-01-01 in Unix seconds."""
LATEST_READABLE = 253_402_300_799.0
"""9999-12-31 in Unix seconds; what lies beyond is not in seconds."""


@dataclass(frozen=True)
class LogColumns:
    """What the file calls the columns of a log.

    Attributes:
        user: column with the user's id.
        item: column with the item's id.
        timestamp: column with Unix seconds or ISO 8601 text.
        event: column with the kind of event; read if the file has it.
        value: column with a number; read if the file has it.
    """

    user: str = USER
    item: str = ITEM
    timestamp: str = TIMESTAMP
    event: str = EVENT
    value: str = VALUE

    def required(self) -> list[tuple[str, str]]:
        """(name in the file, command line option) of the columns a log cannot do without."""
        return [
            (self.user, "--user-column"),
            (self.item, "--item-column"),
            (self.timestamp, "--timestamp-column"),
        ]
