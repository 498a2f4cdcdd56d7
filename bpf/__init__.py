"""What runs in the kernel, the header tree that makes BCC need no kernel headers, and the layouts shared with it."""
