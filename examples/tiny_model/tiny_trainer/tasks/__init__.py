"""What the model is trained to do, one module per kind of task."""
