"""Searches over trainings on Ray Tune: spaces, trials, the sweep that runs them, and what came of it."""
