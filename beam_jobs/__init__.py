"""Beam jobs: from a source of images to checked, sharded and fingerprinted TFRecords."""
