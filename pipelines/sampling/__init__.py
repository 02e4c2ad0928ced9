"""What `vdm sample` makes beside a grid: films, interpolations, filled images, progressive decoding."""
