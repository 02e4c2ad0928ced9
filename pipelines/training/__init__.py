"""What the training job is made of, besides the library: how it begins, watches, records and ends."""
