"""The cure: which initializer a layer should have, and applying it to the model."""
