"""The commands of the command line: a module for each, and how results and failures are shown."""
