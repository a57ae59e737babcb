"""A whole federation on one machine: populations, faults, attacks, comparisons."""
