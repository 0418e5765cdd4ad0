"""Methods side by side on one task, or over a grid of models, tasks and seeds."""
