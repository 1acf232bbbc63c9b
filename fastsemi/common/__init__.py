"""What every room needs and none owns: errors, files, durations, number formats. Knows nothing of images."""
