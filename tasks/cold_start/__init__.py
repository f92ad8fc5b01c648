"""Cold-start curation from R1-Zero's samples (paper B.3.2)."""
