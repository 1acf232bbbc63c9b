"""What goes with an exported network: how pictures are fed, a check from the original files, a model card."""
