"""TensorBoard's event files, made from the metrics history."""
