"""What crosses the wire, byte for byte: one strict codec for every message of the system."""
