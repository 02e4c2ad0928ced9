"""What the job `vdm sample-quality` is made of: features, classifiers and the picture."""
