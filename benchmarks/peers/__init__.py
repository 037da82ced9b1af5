"""One scene through cryoscale and through what people would use instead, with the same weights."""
