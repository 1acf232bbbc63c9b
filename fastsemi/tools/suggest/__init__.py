"""Which images to label next: those that say most about the others."""
