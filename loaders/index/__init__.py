"""Who exists: images, classes and sizes, found once, memory-mapped ever after."""
