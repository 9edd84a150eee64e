"""Many trainings of one configuration: one for each point of a grid, each in a process and run folder of its own."""
