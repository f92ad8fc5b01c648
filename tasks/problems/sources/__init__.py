"""Where problems come from: a file a source, which defines its settings (`tasks.problems.source.Source`)."""
