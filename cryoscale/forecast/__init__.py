"""What a run will take, reckoned before it is started: chunks, bytes, seconds, money and disk."""
