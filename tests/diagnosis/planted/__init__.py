"""Trainings with one error each, and trainings without an error, for the doctor to judge."""
