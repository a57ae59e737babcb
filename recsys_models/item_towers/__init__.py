"""Item towers: one vector per catalogue item, the part of the model that clients share."""
