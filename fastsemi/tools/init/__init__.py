"""A configuration for a folder of pictures: what is there, and the recipe that fits."""
