"""What is random about data, as pure functions of the seed: order, windows, operations, partners."""
