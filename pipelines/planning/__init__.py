"""What a training would need of a TPU slice: its table, the compiler, the work of a step, prices."""
