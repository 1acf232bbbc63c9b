"""Single device operations: time, bytes moved, registers."""
