"""Problem sets: the tiny world's generators, Parquet files of your own, reasoning-gym."""
