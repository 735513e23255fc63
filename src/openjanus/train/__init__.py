"""Training: a run is a recipe, a loop, and a folder that it can be resumed from."""
