"""Models: importing bases, the tiny world's tokenizer, and the script that trains its base models."""
