"""When and where the jobs run."""
