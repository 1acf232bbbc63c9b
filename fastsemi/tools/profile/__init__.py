"""Where the time of a job goes, what limits it, and which loader settings are fastest."""
