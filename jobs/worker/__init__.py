"""Who does it: a supervisor, its processes, and in each of them an engine that feeds executors."""
