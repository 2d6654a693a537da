"""From a target spec to a model factory, a sample input and a loss."""
