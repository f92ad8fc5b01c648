"""The report: every stage of a run side by side, with the paper's claims checked against it."""
