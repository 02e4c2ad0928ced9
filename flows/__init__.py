"""When and where the jobs run: Prefect flows over the `vdm` command. Starts no jax and no TensorFlow."""
