"""Evaluation: tasks, the runner that they share, and scoring rules as pure functions."""
