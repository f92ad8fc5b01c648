"""What each stage does, as plain functions and jobs. Nothing here imports Prefect."""
