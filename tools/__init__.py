"""The commands of a checkout, a thin script each; the product is the package background_training in src/."""
