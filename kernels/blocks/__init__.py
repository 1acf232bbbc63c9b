"""What the Triton kernels are built from: launching, and reading and writing pixels."""
