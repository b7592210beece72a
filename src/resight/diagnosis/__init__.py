"""The doctor: faults that train without complaint."""
