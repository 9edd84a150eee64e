"""What the command line does beyond parsing: one module for each command, and how results and failures read."""
