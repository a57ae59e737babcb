"""One client: its behaviour log, its policy, its answers to the server, its recommendations."""
