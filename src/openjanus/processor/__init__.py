"""Words and pictures to model inputs and back."""
