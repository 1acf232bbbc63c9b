"""What a run costs before it is started: memory, floating-point operations, hours."""
