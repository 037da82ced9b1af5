"""From features to class probabilities: world-lattice tiles, a network on an actor, seamless blending."""
