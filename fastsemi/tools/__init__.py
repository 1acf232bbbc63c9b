"""What a user does with runs besides training them; each uses `fastsemi.run`, none needs another."""
