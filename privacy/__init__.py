"""Bounds, noise, budgets and secure aggregation: everything that decides what may leave a client."""
