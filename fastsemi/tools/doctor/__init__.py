"""What works on this machine and with these images, and how to mend what does not."""
