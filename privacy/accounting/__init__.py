"""What was released, what it costs, and what may still be spent."""
