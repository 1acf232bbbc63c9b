"""What is wrong with the images of a run: classes, sizes, kinds, broken files, duplicates, leaks, labels."""
