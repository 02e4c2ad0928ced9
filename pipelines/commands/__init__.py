"""What `vdm` takes on its command line: one module for each subcommand, or two that belong together. Imports no jax."""
