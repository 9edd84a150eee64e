"""The files that runs leave, and how they are read without running code."""
