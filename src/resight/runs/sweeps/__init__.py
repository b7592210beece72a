"""Search for the settings of a recipe by Optuna, with one worker or many on one storage."""
