"""Making and judging models: labels, patches, training, scores."""
