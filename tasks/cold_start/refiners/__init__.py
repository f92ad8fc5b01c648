"""What rewrites a trace (paper B.3.2): a file a refiner, with `refine(thinking, language) -> str`."""
