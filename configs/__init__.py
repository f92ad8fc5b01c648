"""Presets: one file each; `students/` holds one file per student."""
