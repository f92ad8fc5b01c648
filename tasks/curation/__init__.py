"""What the curation stages share: the choice of problems, filters, settings."""
