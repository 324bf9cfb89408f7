"""What is learned: a problem samples tasks, collects their data and states the loss."""
