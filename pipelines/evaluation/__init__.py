"""Where the numbers of an evaluation lie in a run directory."""
