"""What a person sees: tables, figures, panels, TensorBoard; none of it is needed to train."""
