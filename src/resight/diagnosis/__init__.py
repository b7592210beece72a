"""The doctor: look for errors that do not stop a training."""
