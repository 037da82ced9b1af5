"""A seeded glacierised mountain range, and what the satellites would see of it."""
