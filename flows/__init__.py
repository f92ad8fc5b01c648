"""When things run: the stage flows, the pipeline, their deployments, and the `r1` command."""
