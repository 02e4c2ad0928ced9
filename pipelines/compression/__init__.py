"""What `vdm compress` and `vdm decompress` are made of: images in, images out, and a codec that both sides share."""
