"""Where a job runs: this machine, a list of hosts, or a TPU pod through gcloud. Imports no jax."""
