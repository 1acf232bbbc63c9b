"""How bytes become views: one decode, all windows, several implementations under one contract."""
