"""From probabilities to the map, its outlines and the papers that go with them."""
