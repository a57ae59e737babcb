"""The coordinating server: rounds, cohorts, aggregation, the item tower, reports."""
