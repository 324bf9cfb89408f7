"""The pure core: tensors in, tensors out. No I/O, no random numbers, no state."""
