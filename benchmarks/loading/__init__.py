"""From files to batches: engines against their peers, the index, the native operator."""
