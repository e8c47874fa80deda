"""Speed and memory, measured; each program prints a table."""
